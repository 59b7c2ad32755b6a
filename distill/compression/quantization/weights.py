"""The grid of a weight matrix: scales from the weights, and weights onto the grid.

Weights come as rows ``[out, in]``, a row for each output channel (of an embedding: for each token). Scales and zero
points are ``[]`` for granularity ``tensor``, ``[out]`` for ``channel`` and ``[out, in / group_size]`` for ``group``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from distill.compression.quantization.fake import (
    affine_qparams,
    fake_quantize,
    fake_quantize_learned,
    lsq_gradient_factor,
    lsq_initial_scale,
    round_to_grid,
    symmetric_scale,
)
from distill.compression.quantization.formats import (
    centroids,
    codes,
    level_values,
    rounded,
    rounded_to_clusters,
    scales,
)
from distill.compression.quantization.scheme import WeightScheme
from distill.core.numerics import at_least_float32

__all__ = [
    "Grid",
    "count",
    "fake_quantize_rows",
    "fake_quantize_rows_learned",
    "grid",
    "initial_scale",
    "integers_of",
    "scale_shape",
    "values_of",
]


class Grid(NamedTuple):
    """Scales, and the zero points of an asymmetric scheme."""

    scale: Tensor
    zero_point: Tensor | None


def scale_shape(shape: Sequence[int], scheme: WeightScheme) -> tuple[int, ...]:
    """Shape of the scales of a matrix of this shape; of centroids, as many more as there are levels."""
    each = (2**scheme.bits,) if scheme.format == "kmeans" else ()
    if scheme.granularity == "tensor":
        return each
    if scheme.group_size is None:
        return (shape[0], *each)
    return (shape[0], shape[1] // scheme.group_size, *each)


def count(shape: Sequence[int], scheme: WeightScheme) -> int:
    """How many weights of such a matrix share one scale."""
    if scheme.granularity == "tensor":
        return shape[0] * shape[1]
    return scheme.group_size or shape[1]


def _blocks(rows: Tensor, scheme: WeightScheme) -> Tensor:
    """A view in which the weights of one scale lie along the last dimension, or are all of it."""
    if scheme.group_size is None:
        return rows
    return rows.unflatten(1, (-1, scheme.group_size))  # type: ignore[no-untyped-call, no-any-return]


def _spread(scale: Tensor, scheme: WeightScheme) -> Tensor:
    """A view of the scales that broadcasts against the blocks."""
    return scale if scheme.granularity == "tensor" else scale.unsqueeze(-1)


def _factors(at: Grid, scheme: WeightScheme) -> Tensor:
    """Scales that broadcast against the blocks; centroids as they are."""
    return at.scale if scheme.format == "kmeans" else _spread(at.scale, scheme)


def grid(rows: Tensor, scheme: WeightScheme) -> Grid:
    """Scales by which the smallest and the largest weight of each block are the ends of the grid; no gradient."""
    blocks = at_least_float32(_blocks(rows.detach(), scheme))
    if scheme.format != "int":
        return Grid((centroids if scheme.format == "kmeans" else scales)(blocks, scheme), None)
    low, high = torch.aminmax(blocks) if scheme.granularity == "tensor" else (blocks.amin(-1), blocks.amax(-1))
    if scheme.symmetric:
        return Grid(symmetric_scale(torch.maximum(-low, high), scheme.bounds[1]), None)
    return Grid(*affine_qparams(low, high, scheme.bounds))


def fake_quantize_rows(rows: Tensor, at: Grid, scheme: WeightScheme, *, clips: bool = False) -> Tensor:
    """The quantized weights; exact zeros stay exact zeros. The gradient passes straight through.

    Args:
        rows: Weights none of which lies outside the grid by more than rounding, unless ``clips``.
        at: Of :func:`grid` of these rows, or of all.
        scheme: The scheme.
        clips: Whether weights outside the grid are clipped to it, with no gradient.
    """
    blocks = _blocks(rows, scheme)
    scale = _spread(at.scale, scheme)
    if scheme.format == "kmeans":
        quantized = rounded_to_clusters(at_least_float32(blocks), at.scale).to(rows.dtype)
    elif scheme.format != "int":
        quantized = rounded(at_least_float32(blocks), scale, scheme).to(rows.dtype)
    elif clips and at.zero_point is None:
        quantized = fake_quantize(blocks, scale, torch.zeros_like(scale), scheme.bounds).to(rows.dtype)
    elif at.zero_point is None:
        quantized = round_to_grid(blocks, scale)
    else:
        quantized = fake_quantize(blocks, scale, _spread(at.zero_point, scheme), scheme.bounds).to(rows.dtype)
    return quantized if scheme.group_size is None else quantized.flatten(1)


def fake_quantize_rows_learned(rows: Tensor, scale: Tensor, scheme: WeightScheme, sharing: int) -> Tensor:
    """The weights on a grid whose scales are trained; see :func:`~.fake.fake_quantize_learned`.

    Args:
        rows: Weights.
        scale: Their scales, trained.
        scheme: The scheme.
        sharing: How many weights share a scale (:func:`count`).
    """
    if scheme.format == "kmeans":
        return fake_quantize_rows(rows, Grid(scale, None), scheme)
    bound = scheme.bounds[1]
    factor = lsq_gradient_factor(sharing, bound)
    quantized = fake_quantize_learned(_blocks(rows, scheme), _spread(scale, scheme), bound, factor)
    return quantized if scheme.group_size is None else quantized.flatten(1)


def initial_scale(rows: Tensor, scheme: WeightScheme) -> Tensor:
    """The scales that LSQ starts from, or the centroids."""
    if scheme.format == "kmeans":
        return grid(rows, scheme).scale
    blocks = at_least_float32(_blocks(rows.detach(), scheme)).abs()
    mean = blocks.mean() if scheme.granularity == "tensor" else blocks.mean(-1)
    return lsq_initial_scale(mean, scheme.bounds[1])


def integers_of(rows: Tensor, at: Grid, scheme: WeightScheme) -> Tensor:
    """The integers q of weights ``[out, in]``, clipped to the grid's range; integral values in the scale's dtype."""
    blocks = at_least_float32(_blocks(rows.detach(), scheme))
    if scheme.format != "int":
        found = codes(blocks, _factors(at, scheme), scheme)
        return found if scheme.group_size is None else found.flatten(1)
    integers = (blocks * _spread(at.scale.reciprocal(), scheme)).round_()
    if at.zero_point is not None:
        integers += _spread(at.zero_point, scheme)
    integers = integers.clamp_(*scheme.bounds)
    return integers if scheme.group_size is None else integers.flatten(1)


def values_of(integers: Tensor, at: Grid, scheme: WeightScheme) -> Tensor:
    """scale * (q - zero point): the weights ``[out, in]`` of such integers."""
    blocks = _blocks(integers, scheme)
    if scheme.format != "int":
        found = level_values(blocks, _factors(at, scheme), scheme)
        return found if scheme.group_size is None else found.flatten(1)
    if at.zero_point is not None:
        blocks = blocks - _spread(at.zero_point, scheme)
    values = blocks * _spread(at.scale, scheme)
    return values if scheme.group_size is None else values.flatten(1)
