"""A copy of what is saved, so that training may continue while it is written."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from distill.core.utils.errors import TrainingError

__all__ = ["snapshot"]

_PLAIN = (bool, int, float, complex, str, bytes, set, torch.Size, torch.dtype, torch.device)
"""What ``torch.load(weights_only=True)`` reads, besides tensors and what holds several values."""


def snapshot(value: Any, _copies: dict[Any, Tensor] | None = None, _place: str = "") -> Any:
    """``value`` with every tensor in it copied to the CPU; what shared its memory (tied weights) shares it still.

    Raises:
        TrainingError: if there is something in it that could not be read safely again.
    """
    copies = {} if _copies is None else _copies
    if isinstance(value, Tensor):
        key = (value.data_ptr(), value.dtype, value.shape, value.stride(), value.device)
        if key not in copies or not value.numel():
            copies[key] = value.detach().to("cpu", copy=True)
        return copies[key]
    if isinstance(value, dict):
        made = type(value)() if type(value) is not dict else {}
        made.update((name, snapshot(item, copies, f"{_place}.{name}")) for name, item in value.items())
        return made
    if type(value) in (list, tuple):
        return type(value)(snapshot(item, copies, f"{_place}.{index}") for index, item in enumerate(value))
    if value is not None and type(value) not in _PLAIN:
        kind = f"{type(value).__module__}.{type(value).__qualname__}"
        raise TrainingError(
            f"a checkpoint cannot hold {_place.lstrip('.')}, a {kind}, as it could not be read safely again: have its "
            "state_dict() return tensors and plain values"
        )
    return value
