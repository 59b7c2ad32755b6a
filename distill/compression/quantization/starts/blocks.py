"""The grid of every single weight, and the error that rounding leaves in what layers compute.

Weights are ``[parts, out, in]``: a linear map has one part, a convolution one for each of its groups. A Hessian
``[parts, in, in]`` is the mean of x x^T over the inputs x of a part, so that d H d^T is the mean squared change of an
output whose weights change by d.
"""

from __future__ import annotations

import torch
from torch import Tensor

from distill.compression.quantization.scheme import WeightScheme
from distill.compression.quantization.weights import Grid, grid, integers_of, values_of
from distill.core.numerics import at_least_float32

__all__ = ["each_weight", "fitted_grid", "output_error", "parted"]

_SHRINK = 20
"""Ranges that :func:`fitted_grid` tries: 20/20, 19/20, ... of the full one."""

_SMALLEST_PART = 0.3


def parted(rows: Tensor, parts: int) -> Tensor:
    """Rows ``[out, in]`` as ``[parts, out / parts, in]``."""
    return rows.reshape(parts, -1, rows.shape[-1])


def each_weight(at: Grid, rows: Tensor, scheme: WeightScheme) -> tuple[Tensor, Tensor]:
    """Scale and zero point of every weight ``[out, in]``."""

    def spread(values: Tensor) -> Tensor:
        if scheme.group_size is not None:
            return values.repeat_interleave(scheme.group_size, 1)
        return values.reshape(-1, 1).expand(rows.shape)

    scale = spread(at.scale)
    return scale, torch.zeros_like(scale) if at.zero_point is None else spread(at.zero_point)


def output_error(change: Tensor, hessian: Tensor) -> Tensor:
    """d H d^T of every output, ``[parts, out]``: the mean squared change of what it computes."""
    return (change @ hessian).mul_(change).sum(-1)


def fitted_grid(rows: Tensor, scheme: WeightScheme, importance: Tensor | None = None) -> Grid:
    """The grid of each block of weights, its range shrunk to what rounds the block with the least squared error.

    Tried are the full range and 0.95, 0.9, ... 0.3 of it; the error is sum_j importance_j (w_j - q(w_j))^2.

    Args:
        rows: ``[out, in]``.
        scheme: The scheme.
        importance: Of each weight, ``[out, in]``: mean squares of the inputs; all alike if not given.
    """
    rows = at_least_float32(rows.detach())
    full = grid(rows, scheme)
    best, least = full, _error(rows, full, scheme, importance)
    for part in range(_SHRINK - 1, int(_SMALLEST_PART * _SHRINK) - 1, -1):
        tried = Grid(full.scale * (part / _SHRINK), full.zero_point)
        error = _error(rows, tried, scheme, importance)
        best = Grid(torch.where(error < least, tried.scale, best.scale), full.zero_point)
        least = torch.minimum(error, least)
    return best


def _error(rows: Tensor, at: Grid, scheme: WeightScheme, importance: Tensor | None) -> Tensor:
    """The error of each block, of the scale's shape."""
    error = (values_of(integers_of(rows, at, scheme), at, scheme) - rows).square_()
    error = error if importance is None else error.mul_(importance)
    if scheme.granularity == "tensor":
        return error.sum()
    if scheme.group_size is None:
        return error.sum(-1)
    return error.unflatten(1, (-1, scheme.group_size)).sum(-1)  # type: ignore[no-untyped-call, no-any-return]
