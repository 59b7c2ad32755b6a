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
def untouched(model: nn.Module, *, parameters: bool = True) -> Iterator[None]:
    """Restore what passes change: modes, buffers, attributes, and generators, the global ones among them.

    What a pass changes within a container of its own (a list that it appends to) stays so.

    Args:
        model: A module, with what is below it.
        parameters: Whether their values are restored too, of which there is a copy meanwhile.
    """
    plain = [module for module in model.modules() if not isinstance(module, torch.jit.ScriptModule)]
    parts = [(module, module.__class__, dict(module.__dict__)) for module in plain]
    held = [(module, dict(module._parameters), dict(module._buffers)) for module in plain]
    tensors = [*model.buffers(), *(model.parameters() if parameters else ())]
    values = [(tensor, tensor.data, tensor.detach().clone()) for tensor in tensors]
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
        for module, weights, buffers in held:
            _refill(module._parameters, weights)
            _refill(module._buffers, buffers)
        with torch.no_grad():
            for tensor, data, value in values:
                if tensor.data_ptr() != data.data_ptr():
                    tensor.data = data
                if not torch.equal(tensor, value):
                    tensor.copy_(value)
        for generator, state in generators:
            generator.set_state(state)


def _refill(kept: dict[str, Any], before: dict[str, Any]) -> None:
    kept.clear()
    kept.update(before)
