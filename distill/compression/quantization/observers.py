"""The ranges of a layer's input: of one batch, and followed from batch to batch.

A range is a tensor ``[2]``, low and high, of the positions that hold a token. Parts of a batch (micro-batches, ranks,
several calls of one layer) join to the widest of theirs, so that how a batch is divided and padded changes nothing with
``minmax`` and ``moving_average``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from distill.compression.quantization.fake import affine_qparams, fake_quantize, symmetric_scale
from distill.compression.quantization.scheme import ActivationScheme
from distill.core.numerics import at_least_float32
from distill.core.signals import Positions, tokens_within

__all__ = [
    "batch_range",
    "dynamic_qparams",
    "followed",
    "input_qparams",
    "range_qparams",
    "reduce_over_ranks",
    "unseen",
    "widest",
]

_SAMPLE = 1 << 15
"""Values of a batch that ``percentile`` and ``mse`` look at."""

_SHRINK = 25
"""Ranges that ``mse`` tries: 1/25, 2/25, ... of the full one."""


def unseen(device: torch.device | None = None) -> Tensor:
    """The range of nothing, which any other joined to it replaces."""
    return torch.tensor([math.inf, -math.inf], device=device)


def widest(a: Tensor, b: Tensor) -> Tensor:
    """The smallest range that holds both."""
    return torch.stack([torch.minimum(a[0], b[0]), torch.maximum(a[1], b[1])])


def batch_range(x: Tensor, scheme: ActivationScheme, tokens: Positions = None) -> Tensor:
    """The range of one batch, by the scheme's observer; of nothing, where the layer was called with nothing.

    ``percentile`` and ``mse`` look at positions spread evenly over the batch, all features of each, at most 32,768
    values together.

    Args:
        x: The layer's input, ``[..., features]``.
        scheme: The scheme.
        tokens: Positions that hold a token, boolean ``[B, T]``: of inputs of such positions the others are left out.
    """
    x, within = x.detach().float(), tokens_within(x, tokens)  # as ranges are, whatever the model computes in
    if not x.numel():
        return unseen(x.device)
    if scheme.observer in ("minmax", "moving_average"):
        return torch.stack(torch.aminmax(x)) if within is None else _range_within(x, within)
    values = _sample(x if within is None else x[within])
    if not values.numel():
        return unseen(x.device)
    return _percentile(values, scheme.percentile) if scheme.observer == "percentile" else _least_error(values, scheme)


def _range_within(x: Tensor, within: Tensor) -> Tensor:
    """The range of the positions that count, without asking the device how many these are."""
    low, high = x.amin(-1).masked_fill(~within, math.inf), x.amax(-1).masked_fill(~within, -math.inf)
    return torch.stack([low.amin(), high.amax()])


def _sample(x: Tensor) -> Tensor:
    positions = x.reshape(-1, x.shape[-1])
    wanted = max(1, _SAMPLE // x.shape[-1])
    if len(positions) > wanted:
        chosen = torch.linspace(0, len(positions) - 1, wanted, device=x.device).long()
        positions = positions[chosen]
    return positions.flatten()


def _percentile(values: Tensor, percentile: float) -> Tensor:
    """The values below which 100 - percentile and percentile percent lie."""
    outside = min(round(values.numel() * (1 - percentile / 100)), (values.numel() - 1) // 2)
    return torch.stack([values.kthvalue(1 + outside).values, values.kthvalue(values.numel() - outside).values])


def _least_error(values: Tensor, scheme: ActivationScheme) -> Tensor:
    """The full range shrunk to what rounds ``values`` with the least squared error."""
    full = torch.stack(torch.aminmax(values))
    tried = [full * (part / _SHRINK) for part in range(_SHRINK, 0, -1)]
    errors = torch.stack(
        [(fake_quantize(values, *input_qparams(r, scheme), scheme.bounds) - values).square().sum() for r in tried]
    )
    return torch.stack(tried)[errors.argmin()]


def followed(before: Tensor, batch: Tensor, scheme: ActivationScheme) -> Tensor:
    """The range after one more batch: the widest so far, or before + momentum * (batch - before).

    A batch that was not seen changes nothing.
    """
    batch = batch.to(before.dtype)  # of a module in double precision
    if scheme.observer == "minmax":
        return widest(before, batch)
    moved = torch.where(before.isfinite(), before.lerp(batch, scheme.momentum), batch)
    return torch.where(batch.isfinite(), moved, before)


def reduce_over_ranks(ranges: Sequence[Tensor]) -> list[Tensor]:
    """The widest of each range over the ranks, all in one exchange."""
    if not ranges or not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return list(ranges)
    ends = torch.stack(list(ranges)) * ranges[0].new_tensor([-1.0, 1.0])
    torch.distributed.all_reduce(ends, op=torch.distributed.ReduceOp.MAX)
    return list((ends * ends.new_tensor([-1.0, 1.0])).unbind())


def range_qparams(low: Tensor, high: Tensor, bounds: tuple[int, int], symmetric: bool) -> tuple[Tensor, Tensor]:
    """Scale and zero point of a range, both of the shape of its ends, the zero point integral."""
    if symmetric:
        scale = symmetric_scale(torch.maximum(-low, high), bounds[1])
        return scale, torch.zeros_like(scale)
    return affine_qparams(low, high, bounds)


def input_qparams(seen: Tensor, scheme: ActivationScheme) -> tuple[Tensor, Tensor]:
    """Scale and zero point of a range ``[..., 2]``; both ``[...]``."""
    low, high = seen.unbind(-1)
    return range_qparams(low, high, scheme.bounds, scheme.symmetric)


def dynamic_qparams(x: Tensor, scheme: ActivationScheme, dims: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Scale and zero point of ``x`` from its own values along ``dims``; they broadcast against ``x``."""
    x = at_least_float32(x.detach())
    return range_qparams(x.amin(dims, keepdim=True), x.amax(dims, keepdim=True), scheme.bounds, scheme.symmetric)
