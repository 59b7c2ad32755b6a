"""Weights pruned at once, without training: by magnitude, by Wanda's scores, or by SparseGPT with the others made up.

Weights are ``[out, in]``, as :func:`~distill.compression.pruning.granularity.as_matrix` gives them. A Hessian
``[parts, in, in]`` is the mean of x x^T over the inputs x of a part (of a convolution a group, else there is one), so
that d H d^T is the mean squared change of an output whose weights change by d.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from distill.compression.pruning.granularity import Granularity
from distill.compression.pruning.unit_choice import count_at, lowest
from distill.compression.quantization.starts.gptq import inverse_factor
from distill.core.numerics import at_least_float32

__all__ = ["METHODS", "magnitude", "sparsegpt", "wanda"]

_BLOCK = 128
"""Inputs among which SparseGPT chooses, and after which the rest of the weights learns of the errors."""


def magnitude(rows: Tensor, hessian: Tensor, sparsity: float, granularity: Granularity, damping: float = 0.0) -> Tensor:
    """The least weights of the whole matrix are 0, or of every group of m; the others stay.

    Args:
        rows: ``[out, in]``.
        hessian: Not looked at.
        sparsity: In [0, 1); of n:m it is 1 - n/m.
        granularity: Single weights, or n:m.
        damping: Not used.
    """
    scores = at_least_float32(rows).abs()
    if granularity.keep:
        return rows.masked_fill(~_of_groups(scores, granularity), 0.0)
    return rows.masked_fill(lowest(scores.flatten(), count_at(sparsity, scores.numel())).view_as(rows), 0.0)


def wanda(rows: Tensor, hessian: Tensor, sparsity: float, granularity: Granularity, damping: float = 0.0) -> Tensor:
    """|W_ij| * sqrt(mean x_j^2), the least of every output, or of every group of m, are 0; the others stay.

    Args:
        rows: ``[out, in]``.
        hessian: Of its diagonal are the mean squares.
        sparsity: As of :func:`magnitude`; exactly so in every output.
        granularity: Likewise.
        damping: Not used.

    Reference:
        Sun, Liu, Bair, Kolter: A Simple and Effective Pruning Approach for Large Language Models, ICLR 2024.
    """
    norms = hessian.diagonal(dim1=-2, dim2=-1).sqrt().to(at_least_float32(rows).dtype)
    scores = at_least_float32(rows).abs() * norms.repeat_interleave(len(rows) // len(norms), 0)
    if granularity.keep:
        return rows.masked_fill(~_of_groups(scores, granularity), 0.0)
    least = scores.argsort(dim=1, stable=True)[:, : count_at(sparsity, scores.shape[1])]
    return rows.scatter(1, least, 0.0)


def sparsegpt(
    rows: Tensor, hessian: Tensor, sparsity: float, granularity: Granularity, damping: float = 0.01
) -> Tensor:
    """Weights pruned input after input, each made up for by the weights of the inputs that are still to come.

    With U of :func:`~distill.compression.quantization.starts.gptq.inverse_factor`, a weight costs w_j^2 / U_jj^2. Of
    every 128 inputs the cheapest weights are chosen (over all outputs; of n:m those of every group), as the weights are
    then; where w_j goes, w_k -= w_j U_jk / U_jj for all k >= j. This leaves the least change of the output that the
    weights still to come can make up for. A weight that is 0 already stays so.

    Args:
        rows: ``[out, in]``.
        hessian: ``[parts, in, in]``.
        sparsity: As of :func:`magnitude`.
        granularity: Likewise.
        damping: Added to the Hessian's diagonal, as a part of its mean.

    Reference:
        Frantar, Alistarh: SparseGPT: Massive Language Models Can Be Accurately Pruned in One-Shot, ICML 2023.
    """
    weights = at_least_float32(rows.detach()).reshape(len(hessian), -1, rows.shape[-1]).clone()
    dead = weights == 0
    factor = inverse_factor(hessian, damping).to(weights.dtype)
    diagonal, width = factor.diagonal(dim1=-2, dim2=-1), weights.shape[-1]
    block = granularity.columns * max(1, _BLOCK // granularity.columns) if granularity.keep else _BLOCK
    for begin in range(0, width, block):
        end = min(begin + block, width)
        errors = torch.zeros_like(weights[..., begin:end])
        gone = torch.zeros_like(errors, dtype=torch.bool)
        if not granularity.keep:
            costs = (weights[..., begin:end] / diagonal[:, None, begin:end]).square()
            costs.masked_fill_(dead[..., begin:end], -1.0)
            chosen = [lowest(part.flatten(), count_at(sparsity, part.numel())).view_as(part) for part in costs]
            gone = torch.stack(chosen) | dead[..., begin:end]
        for j in range(begin, end):
            if granularity.keep and not j % granularity.columns:
                group = slice(j, j + granularity.columns)
                costs = (weights[..., group] / diagonal[:, None, group]).square().masked_fill_(dead[..., group], -1.0)
                least = costs.topk(granularity.columns - granularity.keep, dim=-1, largest=False).indices
                gone[..., j - begin : j - begin + granularity.columns].scatter_(-1, least, True)
                gone |= dead[..., begin:end]
            error = torch.where(gone[..., j - begin], weights[..., j] / diagonal[:, j, None], 0.0)
            errors[..., j - begin] = error
            weights[..., j:end] -= error[..., None] * factor[:, None, j, j:end]
        weights[..., begin:end].masked_fill_(gone, 0.0)
        weights[..., end:] -= errors @ factor[:, begin:end, end:]
    return weights.reshape(rows.shape).to(rows.dtype)


def _of_groups(scores: Tensor, granularity: Granularity) -> Tensor:
    """Which weights stay where every group of m keeps its n best."""
    units = granularity.units(scores)
    every = torch.ones(len(units), dtype=torch.bool, device=units.device)
    return granularity.matrix(granularity.kept(units, every), scores.shape)


METHODS: dict[str, Callable[[Tensor, Tensor, float, Granularity, float], Tensor]] = {
    "magnitude": magnitude,
    "wanda": wanda,
    "sparsegpt": sparsegpt,
}
"""By the names that a command may use."""
