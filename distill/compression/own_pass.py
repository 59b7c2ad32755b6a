"""While a compressed model computes: nobody reads a layer's weight past the layer.

In eval mode without gradients ``nn.TransformerEncoderLayer`` and ``nn.MultiheadAttention`` hand the weights of their
layers to one fused kernel, and call no layer; ``nn.TransformerEncoder`` makes nested tensors for it. Inputs would not
be rounded then, and validation would score another student than the one that is trained. In the passes of a model that
is under :func:`guard` the kernel is off, which changes results in the last bits only.

A weight may be read by another module's forward too: ``F.linear(x, self.embedding.weight)``. Layers ask
:func:`in_own_pass` whether it is such a reader that they answer, or an optimizer, which wants the parameter.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from distill.compression.operations import HOOKS, contained_operations
from distill.core.internals.torch import hooks, in_backward, pre_hooks

__all__ = ["contained", "guard", "guards", "in_backward", "in_own_pass"]

_FUSED = (nn.TransformerEncoder, nn.TransformerEncoderLayer)

_depth = 0  # guarded modules that are computing now, one within another
_fused_before = True


def guard(model: nn.Module) -> None:
    """Watch the passes of ``model``, and of the encoders in it that may be called alone. Twice is as once.

    The hooks are functions of this module: they survive ``deepcopy``, and are in no state dict.
    """
    for module in model.modules():
        if (module is model or isinstance(module, _FUSED)) and _enter not in pre_hooks(module):
            module.register_forward_pre_hook(_enter)
            module.register_forward_hook(_leave, always_call=True)


def guards(module: nn.Module) -> bool:
    """Whether the only hooks of its forward pass are those of :func:`guard` and of what counts operations."""
    return set(hooks(module)) <= {_enter, _leave} | HOOKS


@contextmanager
def contained() -> Iterator[None]:
    """A block after which no pass is taken for one that still computes, whatever cut it off.

    Where torch traces a model it leaves hooks that are always called uncalled when the model raises.
    """
    global _depth
    before = _depth
    try:
        with contained_operations():
            yield
    finally:
        if _depth and not before:
            torch.backends.mha.set_fastpath_enabled(_fused_before)
        _depth = before


def in_own_pass() -> bool:
    """Whether a guarded model computes now, or a backward pass does, which may compute parts of it again."""
    return _depth > 0 or in_backward()  # in which gradient checkpointing calls layers once more


def _enter(module: nn.Module, args: Any) -> None:
    global _depth, _fused_before
    if not _depth:
        _fused_before = torch.backends.mha.get_fastpath_enabled()
        torch.backends.mha.set_fastpath_enabled(False)
    _depth += 1


def _leave(module: nn.Module, args: Any, output: Any) -> None:
    global _depth
    _depth = max(0, _depth - 1)
    if not _depth:
        torch.backends.mha.set_fastpath_enabled(_fused_before)
