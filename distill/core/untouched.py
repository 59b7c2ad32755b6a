"""A block in which a model is run, and after which nothing of it is another."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from pytorch_lightning.utilities.seed import isolate_rng
from torch import nn

__all__ = ["untouched"]


@contextmanager
def untouched(model: nn.Module) -> Iterator[None]:
    """Restore what passes change: modes, buffers, attributes, and generators, the global ones among them.

    Parameters keep their places, not their values. What a pass changes within a container of its own (a list that it
    appends to) stays so.
    """
    plain = [module for module in model.modules() if not isinstance(module, torch.jit.ScriptModule)]
    parts = [(module, module.__class__, dict(module.__dict__)) for module in plain]
    held = [(module, dict(module._parameters), dict(module._buffers)) for module in plain]
    buffers = [(buffer, buffer.detach().clone()) for buffer in model.buffers()]
    generators = [(g, g.get_state()) for _, _, own in parts for g in own.values() if isinstance(g, torch.Generator)]
    try:
        with isolate_rng():
            yield
    finally:
        for module, kind, own in parts:
            if module.__class__ is not kind:
                module.__class__ = kind
            module.__dict__.clear()
            module.__dict__.update(own)
        for module, parameters, named in held:
            _refill(module._parameters, parameters)
            _refill(module._buffers, named)
        with torch.no_grad():
            for buffer, value in buffers:
                if not torch.equal(buffer, value):
                    buffer.copy_(value)
        for generator, state in generators:
            generator.set_state(state)


def _refill(kept: dict[str, Any], before: dict[str, Any]) -> None:
    kept.clear()
    kept.update(before)
