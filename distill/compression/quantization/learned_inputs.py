"""The trained grid of a static input.

What is trained is the change since the range was observed: of the scale and, where the grid is not symmetric, of its
smallest value. It begins at 0, which is the observed grid to the bit, for every rank and for averages of weights too.
The gradient of a change is that of what it changes.

As of the scale, the sign of the smallest value does not matter: a grid holds 0, so one above 0 would change nothing,
have a gradient of 0, and never come back. It counts as its negative. No part of a batch is judged by itself for that,
so gradients of parts add up to that of the whole.
"""

from __future__ import annotations

import torch
from torch import Tensor

from distill.compression.quantization.fake import (
    fake_quantize_learned,
    fake_quantize_learned_affine,
    lsq_gradient_factor,
    positive,
    zero_point_of,
)
from distill.compression.quantization.observers import input_qparams
from distill.compression.quantization.scheme import ActivationScheme

__all__ = ["fake_quantize_input_learned", "learned_qparams", "no_change"]


def no_change(scheme: ActivationScheme, device: torch.device) -> Tensor:
    """The change of an input whose range was only observed: ``[1]``, or ``[2]`` with a smallest value."""
    return torch.zeros(1 if scheme.symmetric else 2, device=device)


def _changed(seen: Tensor, change: Tensor, scheme: ActivationScheme) -> tuple[Tensor, Tensor]:
    """Scale, whose sign does not matter, and smallest value."""
    scale, _ = input_qparams(seen, scheme)
    scale, low = scale + change[0], seen[0].clamp_max(0)
    if not scheme.symmetric:
        low = low + change[1]
        low = torch.where(low > 0, -low, low)  # not -|low|, whose gradient at 0 is 0
    return scale, low


def learned_qparams(seen: Tensor, change: Tensor, scheme: ActivationScheme) -> tuple[Tensor, Tensor]:
    """Scale and zero point, both ``[]``, of a range ``[2]`` that was observed and a change."""
    scale, low = _changed(seen, change.detach(), scheme)
    scale = positive(scale)
    return scale, torch.zeros_like(scale) if scheme.symmetric else zero_point_of(low, scale, scheme.bounds)


def fake_quantize_input_learned(
    x: Tensor, seen: Tensor, change: Tensor, scheme: ActivationScheme, features: int
) -> Tensor:
    """The quantized input, with gradients for input and change.

    The gradient of the change is scaled by 1 / sqrt(N * Q), Q being the largest integer and N the number of features.

    Args:
        x: The input.
        seen: The range that was observed, ``[2]``.
        change: Trained, see :func:`no_change`.
        scheme: The scheme.
        features: Of one token, or one sample of a convolution: how many there are of these in a batch, and so how a
            batch is divided, changes nothing.
    """
    scale, low = _changed(seen, change, scheme)
    factor = lsq_gradient_factor(features, scheme.bounds[1])
    if scheme.symmetric:
        return fake_quantize_learned(x, scale, scheme.bounds[1], factor)
    return fake_quantize_learned_affine(x, scale, low, scheme.bounds, factor)
