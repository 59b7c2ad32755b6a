"""Fake-quantization: round to the integer grid and back, with a straight-through gradient.

Everything is computed in float32 or better, autocast or not, and rounds halves to even as ``torch.fake_quantize_*``
does; unlike these, a NaN stays a NaN. Scales broadcast against what they scale.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from distill.core.numerics import at_least_float32

__all__ = [
    "affine_qparams",
    "beside",
    "fake_quantize",
    "fake_quantize_learned",
    "fake_quantize_learned_affine",
    "lsq_gradient_factor",
    "lsq_initial_scale",
    "positive",
    "round_to_grid",
    "symmetric_scale",
    "zero_point_of",
]

_SMALLEST = 2.0**-100
"""No scale is smaller: where all values are 0, its reciprocal is still a number."""


def symmetric_scale(largest: Tensor, bound: int) -> Tensor:
    """largest / bound: the scale by which the largest absolute value becomes the largest integer."""
    return (largest / bound).clamp_min(_SMALLEST)


def zero_point_of(low: Tensor, scale: Tensor, bounds: tuple[int, int]) -> Tensor:
    """smallest - round(low / scale), within ``bounds``: the integer of 0 where the smallest integer is ``low``."""
    smallest, largest = bounds
    return (smallest - (low / scale).round()).clamp(smallest, largest)


def affine_qparams(low: Tensor, high: Tensor, bounds: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Scale and zero point that lay [low, high], widened to hold zero, on the integers of ``bounds``.

    scale = (high - low) / (largest - smallest) and zero_point = smallest - round(low / scale), an integer: zero is
    exactly on the grid.

    Returns:
        Scale and zero point, the latter integral, in the scale's dtype.
    """
    smallest, largest = bounds
    low, high = low.clamp_max(0), high.clamp_min(0)
    scale = ((high - low) / (largest - smallest)).clamp_min(_SMALLEST)
    return scale, zero_point_of(low, scale, bounds)


def _compact(mask: Tensor) -> Tensor:
    """A mask of zeros and ones as it is kept for the backward pass.

    Booleans take a quarter of the memory; on a CPU, converting to them and back takes longer than all the rest.
    """
    return mask if mask.device.type == "cpu" else mask.bool()


class _RoundToGrid(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor) -> Tensor:
        return (x * scale.reciprocal()).round_().mul_(scale)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        return gradient, None


def round_to_grid(x: Tensor, scale: Tensor) -> Tensor:
    """scale * round(x / scale), for a scale by which nothing lies outside the range of the integers.

    The gradient passes unchanged: nothing is clipped. Saves the mask of :func:`fake_quantize`.
    """
    rounded: Tensor = _RoundToGrid.apply(at_least_float32(x), scale)  # type: ignore[no-untyped-call]
    return rounded.to(x.dtype)


class _FakeQuantize(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, low: Tensor, high: Tensor) -> Tensor:
        rounded = (x * scale.reciprocal()).round_()
        clipped = torch.maximum(rounded, low).minimum(high)  # several times as fast as clamp by tensors
        ctx.save_for_backward(_compact(rounded.eq_(clipped)))
        return clipped.mul_(scale)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        (inside,) = ctx.saved_tensors
        return gradient * inside, None, None, None


def fake_quantize(x: Tensor, scale: Tensor, zero_point: Tensor, bounds: tuple[int, int]) -> Tensor:
    """scale * (q - zero_point) with q = clip(round(x / scale) + zero_point, smallest, largest).

    The gradient passes where q was not clipped, and is 0 elsewhere (Jacob et al. 2018).

    Args:
        x: Any shape; half precision is widened.
        scale: Broadcasts against ``x``.
        zero_point: Of the scale's shape, integral, within ``bounds``.
        bounds: The smallest and the largest integer.

    Returns:
        Of the shape of ``x``, in float32 or better.
    """
    quantized: Tensor = _FakeQuantize.apply(  # type: ignore[no-untyped-call]
        at_least_float32(x), scale, bounds[0] - zero_point, bounds[1] - zero_point
    )
    return quantized


def lsq_gradient_factor(count: int, bound: int) -> float:
    """1 / sqrt(N * Q), by which LSQ balances the step of a scale with that of its ``count`` weights."""
    return 1 / math.sqrt(count * bound)


def lsq_initial_scale(mean: Tensor, bound: int) -> Tensor:
    """2 * mean(\\|weight\\|) / sqrt(Q): the scale that LSQ starts from."""
    return (2 * mean / math.sqrt(bound)).clamp_min(_SMALLEST)


def positive(scale: Tensor) -> Tensor:
    """The size of a trained scale, whose sign does not matter, in float32 or better."""
    return at_least_float32(scale).abs().clamp_min(_SMALLEST)


class _Beside(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor) -> Tensor:
        ctx.save_for_backward(scale)
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        return gradient, torch.zeros_like(ctx.saved_tensors[0])


def beside(x: Tensor, scale: Tensor) -> Tensor:
    """``x``, with a gradient of zeros for ``scale``."""
    untouched: Tensor = _Beside.apply(x, scale)  # type: ignore[no-untyped-call]
    return untouched


class _Learned(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, bound: int, factor: float) -> Tensor:
        steps = x * scale.reciprocal()
        integers = steps.round().clamp_(-bound, bound)
        inside = steps.abs().lt_(bound)
        ctx.save_for_backward(_compact(inside), integers - steps.mul_(inside))
        ctx.factor, ctx.scale_shape = factor, scale.shape
        return integers.mul_(scale)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        inside, slope = ctx.saved_tensors
        of_scale = slope.mul(gradient).sum_to_size(ctx.scale_shape) * ctx.factor
        return gradient * inside, of_scale, None, None


def fake_quantize_learned(x: Tensor, scale: Tensor, bound: int, factor: float) -> Tensor:
    """scale * clip(round(x / scale), -Q, Q), with gradients for ``x`` and for the scale.

    With t = x / scale, the gradient of ``x`` passes where -Q < t < Q. That of the scale is ``factor`` times the sum,
    over the values that share it, of (round(t) - t) there, of -Q where t <= -Q, and of Q where t >= Q: rounding
    counts as the identity plus a constant.

    Args:
        x: Any shape.
        scale: Broadcasts against ``x``; its sign does not matter.
        bound: Q.
        factor: See :func:`lsq_gradient_factor`.

    Reference:
        Esser et al.: Learned Step Size Quantization, ICLR 2020.
    """
    quantized: Tensor = _Learned.apply(  # type: ignore[no-untyped-call]
        at_least_float32(x), positive(scale), bound, factor
    )
    return quantized.to(x.dtype)


class _LearnedAffine(Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, scale: Tensor, low: Tensor, zero_point: Tensor, bounds: tuple[int, int], factor: float
    ) -> Tensor:
        smallest, largest = bounds[0] - zero_point, bounds[1] - zero_point
        steps = x * scale.reciprocal()
        integers = torch.maximum(steps.round(), smallest).minimum(largest)
        inside = steps.ge(smallest).logical_and_(steps.le(largest))
        follows = (low / scale).round().eq(smallest)  # else the zero point stands still at an end of the bounds
        ctx.save_for_backward(inside, integers - steps.where(inside, smallest.where(follows, 0)), follows)
        ctx.factor, ctx.shape = factor, scale.shape
        return integers.mul_(scale)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        inside, slope, follows = ctx.saved_tensors
        of_scale = slope.mul(gradient).sum_to_size(ctx.shape) * ctx.factor
        of_low = gradient.masked_fill(inside, 0).sum_to_size(ctx.shape).mul(follows) * ctx.factor
        return gradient * inside, of_scale, of_low, None, None, None


def fake_quantize_learned_affine(
    x: Tensor, scale: Tensor, low: Tensor, bounds: tuple[int, int], factor: float
) -> Tensor:
    """:func:`fake_quantize` with the zero point of ``low``, and gradients for ``x``, the scale and ``low``.

    With t = x / scale + zero point, the gradient of ``x`` passes where t lies between the bounds or on one of them.
    There that of the scale is ``factor`` times the sum of round(t) - t, and that of ``low`` is 0. Of what is clipped
    below, that of the scale is 0, of what is clipped above largest - smallest, and that of ``low`` 1: what moves
    ``low`` to where 0 is an integer counts as a constant, as rounding does.

    A ``low`` half a step or more beyond [(smallest - largest) * scale, 0] changes nothing, as 0 is always on the grid:
    the zero point is then the smallest or the largest integer. The gradient of ``low`` is 0, and that of the scale is,
    of what is clipped to an integer q, q - zero point.

    Args:
        x: Any shape.
        scale: Broadcasts against ``x``; its sign does not matter.
        low: The value of the smallest integer, of the scale's shape.
        bounds: The smallest and the largest integer.
        factor: See :func:`lsq_gradient_factor`.

    Reference:
        Bhalgat et al.: LSQ+: Improving low-bit quantization through learnable offsets and better initialization,
        CVPR Workshops 2020.
    """
    scale = positive(scale)
    zero_point = zero_point_of(low.detach(), scale.detach(), bounds)
    quantized: Tensor = _LearnedAffine.apply(  # type: ignore[no-untyped-call]
        at_least_float32(x), scale, low, zero_point, bounds, factor
    )
    return quantized.to(x.dtype)
