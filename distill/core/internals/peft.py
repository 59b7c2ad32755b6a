"""What peft keeps to itself: whether the layers of an adapter add what they have learned.

Written against peft 0.21, which is not imported: it may not be installed, and then no model has such layers. Its own
switch also stops the training of what it switches off. Each function is a contract that
``tests/core/internals/test_peft.py`` holds.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

__all__ = ["adapter_layers", "without_adapter"]


def adapter_layers(model: nn.Module) -> list[nn.Module]:
    """The modules of ``model`` that peft has put in the place of others."""
    return [module for module in model.modules() if hasattr(module, "_disable_adapters")]


@contextmanager
def without_adapter(model: nn.Module) -> Iterator[None]:
    """Inside the block ``model`` computes what it computed before it had an adapter."""
    layers: list[Any] = adapter_layers(model)
    before = [layer._disable_adapters for layer in layers]
    for layer in layers:
        layer._disable_adapters = True
    try:
        yield
    finally:
        for layer, off in zip(layers, before, strict=True):
            layer._disable_adapters = off
