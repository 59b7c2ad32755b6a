"""Which axis of a stored weight is which."""

from __future__ import annotations

from torch import nn
from transformers.pytorch_utils import Conv1D

__all__ = ["TRANSPOSED", "input_axis", "output_axis"]

TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
"""Convolutions whose weight is stored ``[in, out / groups, k, ...]``."""


def output_axis(module: nn.Module) -> int:
    """The axis of a module's weight along which its outputs lie.

    1 where inputs come first: in GPT-2's ``Conv1D`` (``[in, out]``) and transposed convolutions
    (``[in, out / groups, ...]``). Else 0: in ``Linear`` (``[out, in]``) and convolutions (``[out, in / groups, ...]``).
    """
    return 1 if isinstance(module, (Conv1D, *TRANSPOSED)) else 0


def input_axis(module: nn.Module) -> int:
    """The axis of a module's weight along which its inputs lie; see :func:`output_axis`."""
    return 1 - output_axis(module)
