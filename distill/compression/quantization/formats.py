"""Weights that are rounded to other values than evenly spaced ones: small floats, tables of levels, clusters.

A block of weights is divided by its scale and rounded to the nearest level of its format. ``kmeans`` has no scale: the
levels of each block are centroids, one of which is 0 and stays it, and they are trained. Blocks lie along the last
dimension, as in :mod:`~distill.compression.quantization.weights`; with granularity ``tensor`` a matrix is one block.
"""

from __future__ import annotations

from functools import cache
from itertools import product
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from distill.compression.quantization.fake import symmetric_scale
from distill.compression.quantization.scheme import WeightScheme

__all__ = ["centroids", "codes", "float_levels", "level_values", "levels", "rounded", "rounded_to_clusters", "scales"]

_FLOATS = {
    "fp4": (1, 0, 6.0),
    "fp8_e4m3": (3, -6, 448.0),
    "fp8_e5m2": (2, -14, 57344.0),
}
"""Bits of the mantissa, exponent of the smallest normal number, largest number."""

_ELEMENTS = {"mxfp4": "fp4", "nvfp4": "fp4"}

_HALVES = {"fp16": torch.float16, "bf16": torch.bfloat16}

_NF4 = (
    *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334),
    *(-0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224),
    *(0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0),
)
"""Dettmers et al.: QLoRA, NeurIPS 2023, appendix E: quantiles of a normal distribution."""

_ITERATIONS = 20


def float_levels(steps: Tensor, name: str) -> Tensor:
    """The nearest numbers of a small float format, halves to even; the largest of it instead of larger ones.

    With e = max(floor(log2\\|x\\|), smallest exponent) and m bits of mantissa: 2^(e-m) round(x / 2^(e-m)).
    """
    mantissa, smallest, largest = _FLOATS[name]
    exponent = torch.frexp(steps).exponent - 1
    step = torch.ldexp(torch.ones_like(steps), exponent.clamp_min(smallest) - mantissa)
    return (steps / step).round_().mul_(step).clamp_(-largest, largest)


@cache
def levels(name: str, bits: int) -> Tensor:
    """The levels of a format in rising order, before they are scaled.

    ``pot``: 0 and plus or minus 2^-k, k = 0 ... 2^(bits - 1) - 2. ``apot``: sums of 0 or a power of two of each of
    several sets, so that levels are dense far from 0 too (Li et al.: Additive Powers-of-Two Quantization, ICLR 2020).
    """
    if name == "nf4":
        return torch.tensor(_NF4)
    if name in ("pot", "apot"):
        sets = _additive(bits) if name == "apot" else [[2.0**-k for k in range(2 ** (bits - 1) - 1)]]
        sums = {sum(terms) for terms in product(*([0.0, *terms] for terms in sets))}
        return torch.tensor(sorted(sums | {-x for x in sums}))
    mantissa, smallest, largest = _FLOATS[_ELEMENTS.get(name, name)]
    step = 2.0 ** (smallest - mantissa)
    above, numbers = 2.0**smallest, [0.0]
    while numbers[-1] < largest:
        numbers.append(numbers[-1] + step)
        if numbers[-1] >= 2 * above:
            above, step = 2 * above, 2 * step
    return torch.tensor([*(-x for x in reversed(numbers[1:])), *numbers])


def _additive(bits: int) -> list[list[float]]:
    """The sets of APoT for a sign and ``bits - 1`` bits: one a pair of bits, and one power for an odd bit."""
    if bits == 4:
        return [[1.0, 0.5, 0.125], [0.25]]
    terms = (bits - 1) // 2
    return [[2.0 ** -(i + j * terms) for j in range(3)] for i in range(terms)]


def scales(blocks: Tensor, scheme: WeightScheme) -> Tensor:
    """The scale of each block: by which its largest weight is the largest level.

    ``mxfp4``: 2^(floor(log2 max\\|w\\|) - 2), the OCP's shared exponent. ``nvfp4``: a number of fp8_e4m3 times a
    scale of the whole matrix, max\\|W\\| / (6 * 448).
    """
    sizes = blocks.abs()
    largest = sizes.amax() if scheme.granularity == "tensor" else sizes.amax(-1)
    if scheme.format in _HALVES:
        return torch.ones_like(largest)
    if scheme.format == "mxfp4":
        exponent = torch.frexp(largest.clamp_min(2.0**-100)).exponent - 3
        return torch.ldexp(torch.ones_like(largest), exponent)
    if scheme.format == "nvfp4":
        whole = symmetric_scale(largest.amax(), 6 * 448)
        return (float_levels(largest / 6 / whole, "fp8_e4m3") * whole).clamp_min(2.0**-100)
    top = levels(scheme.format, scheme.bits)[-1]
    return (largest / top.to(largest)).clamp_min(2.0**-100)


def _nearest(steps: Tensor, scheme: WeightScheme) -> Tensor:
    if half := _HALVES.get(scheme.format):
        top = torch.finfo(half).max
        return steps.clamp(-top, top).to(half).to(steps.dtype)
    name = _ELEMENTS.get(scheme.format, scheme.format)
    if name in _FLOATS:
        return float_levels(steps, name)
    table = levels(scheme.format, scheme.bits).to(steps)
    return table[torch.bucketize(steps, (table[1:] + table[:-1]) / 2)]


class _Rounded(Function):
    @staticmethod
    def forward(ctx: Any, blocks: Tensor, scale: Tensor, scheme: WeightScheme) -> Tensor:
        return _nearest(blocks / scale, scheme).mul_(scale)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        return gradient, None, None


def rounded(blocks: Tensor, scale: Tensor, scheme: WeightScheme) -> Tensor:
    """scale * (the level nearest to w / scale); the gradient passes straight through. Scales broadcast."""
    found: Tensor = _Rounded.apply(blocks, scale, scheme)  # type: ignore[no-untyped-call]
    return found


def codes(blocks: Tensor, scale: Tensor, scheme: WeightScheme) -> Tensor:
    """Which level each weight is, counted from the middle one on; of 16-bit floats their bits, as an integer."""
    if scheme.format in _HALVES:
        half = _nearest(blocks, scheme).to(_HALVES[scheme.format])
        bits: Tensor = half.view(torch.int16)
        return bits.to(blocks.dtype)
    found: Tensor
    if scheme.format == "kmeans":
        found = _members(blocks, scale) - 2 ** (scheme.bits - 1)
        return found.to(blocks.dtype)
    table = levels(scheme.format, scheme.bits).to(blocks)
    found = torch.searchsorted(table, _nearest(blocks / scale, scheme)) - len(table) // 2
    return found.to(blocks.dtype)


def level_values(codes: Tensor, scale: Tensor, scheme: WeightScheme) -> Tensor:
    """The weights of such codes."""
    if scheme.format in _HALVES:
        found: Tensor = codes.to(torch.int16).view(_HALVES[scheme.format]).to(codes.dtype)
        return found
    if scheme.format == "kmeans":
        return _of(scale, codes.long() + 2 ** (scheme.bits - 1))
    table = levels(scheme.format, scheme.bits).to(codes)
    return table[codes.long() + len(table) // 2] * scale


# ---------------------------------------------------------------------- clusters


def centroids(blocks: Tensor, scheme: WeightScheme) -> Tensor:
    """2^bits centroids of each block, in rising order but for the middle one, which is 0: ``[..., 2^bits]``.

    Lloyd's algorithm from evenly spaced ones, as Han et al.: Deep Compression, ICLR 2016, found best.
    """
    flat = blocks.flatten() if scheme.granularity == "tensor" else blocks
    low, high = flat.amin(-1, keepdim=True), flat.amax(-1, keepdim=True)
    count = 2**scheme.bits
    part = torch.linspace(0, 1, count, dtype=flat.dtype, device=flat.device)
    found = _with_zero(low + (high - low) * part)
    for _ in range(_ITERATIONS):
        members = _members(flat, found)
        sums = torch.zeros_like(found).scatter_add_(-1, members, flat)
        sizes = torch.zeros_like(found).scatter_add_(-1, members, torch.ones_like(flat))
        found = _with_zero(torch.where(sizes > 0, sums / sizes.clamp_min(1), found))
    return found


def _with_zero(found: Tensor) -> Tensor:
    found = found.clone()
    found[..., found.shape[-1] // 2] = 0
    return found


def _members(blocks: Tensor, table: Tensor) -> Tensor:
    """The nearest centroid of each weight; a table ``[K]`` is that of all, else ``[..., K]`` of each block."""
    flat = blocks.flatten() if table.dim() == 1 else blocks
    order = table.sort(-1)
    middles = (order.values[..., 1:] + order.values[..., :-1]) / 2
    nearest = order.indices.gather(-1, torch.searchsorted(middles.contiguous(), flat.contiguous()))
    nearest = nearest.masked_fill(flat == 0, table.shape[-1] // 2)  # a pruned weight
    return nearest.view(blocks.shape)


def _of(table: Tensor, members: Tensor) -> Tensor:
    return table[members] if table.dim() == 1 else table.gather(-1, members)


class _Clustered(Function):
    @staticmethod
    def forward(ctx: Any, blocks: Tensor, table: Tensor) -> Tensor:
        members = _members(blocks, table)
        ctx.save_for_backward(members)
        ctx.shape = table.shape
        return _of(table, members)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        (members,) = ctx.saved_tensors
        whole = len(ctx.shape) == 1
        sums = gradient.new_zeros(ctx.shape)
        sums.scatter_add_(-1, members.flatten() if whole else members, gradient.flatten() if whole else gradient)
        return gradient, _with_zero(sums)


def rounded_to_clusters(blocks: Tensor, table: Tensor) -> Tensor:
    """The centroid nearest to each weight; a weight of 0 stays 0.

    The gradient of a weight passes straight through; that of a centroid is the sum over its members', and of the one
    that is 0 it is 0.

    Args:
        blocks: Weights.
        table: Centroids, see :func:`centroids`.
    """
    found: Tensor = _Clustered.apply(blocks, table)  # type: ignore[no-untyped-call]
    return found
