"""A block in which a model is run, and after which nothing of it is another."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from pytorch_lightning.utilities.seed import isolate_rng
from torch import nn

__all__ = ["preserved_state"]


@contextmanager
def preserved_state(model: nn.Module, *, parameters: bool = True) -> Iterator[None]:
    """Restore what passes change: modes, buffers, attributes, and generators, the global ones among them.

    So are the entries of dicts and lists that modules hold; what a pass changes deeper stays so.

    Args:
        model: A module, with what is below it.
        parameters: Whether their values are restored too, of which there is a copy meanwhile.
    """
    plain = [module for module in model.modules() if not isinstance(module, torch.jit.ScriptModule)]
    parts = [(module, module.__class__, dict(module.__dict__)) for module in plain]
    # Hooks, buffers and submodules are in dicts of their own, which transformers too adds to on a first pass.
    held = [(value, dict(value)) for _, _, own in parts for value in own.values() if isinstance(value, dict)]
    lists = [(value, [*value]) for _, _, own in parts for value in own.values() if isinstance(value, list)]
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
        for mapping, before in held:
            mapping.clear()
            mapping.update(before)
        for items, entries in lists:
            items[:] = entries
        with torch.no_grad():
            for tensor, data, value in values:
                if tensor.data_ptr() != data.data_ptr():
                    tensor.data = data
                if not torch.equal(tensor, value):
                    tensor.copy_(value)
        for generator, state in generators:
            generator.set_state(state)
