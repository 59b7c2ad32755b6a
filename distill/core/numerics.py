"""In which precision sums are taken."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["at_least_float32", "full_precision"]


def at_least_float32(tensor: Tensor) -> Tensor:
    """``tensor`` in float32, or as it is in float64.

    Softmax, logarithms and sums of half precision lose several percent of the gradient, most of all
    where the student is close to the teacher; scales of half precision round weights to other integers.
    """
    return tensor if tensor.dtype is torch.float64 else tensor.float()


def full_precision(tensor: Tensor) -> torch.autocast:
    """A block in which matrix products keep the dtype of their operands, whatever autocast is on.

    Autocast would compute a float32 product in half precision without asking.
    """
    return torch.autocast(tensor.device.type, enabled=False)
