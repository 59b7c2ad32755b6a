"""GPTQ: weights rounded one input after the other, each error made up for by the weights that are still to come."""

from __future__ import annotations

import torch
from torch import Tensor

from distill.compression.quantization.scheme import WeightScheme
from distill.compression.quantization.starts.blocks import each_weight, parted
from distill.compression.quantization.weights import Grid
from distill.core.numerics import at_least_float32
from distill.core.utils.errors import UserError

__all__ = ["gptq", "inverse_factor"]

_BLOCK = 128
"""Inputs that are rounded before the rest of the weights learns of their errors; it changes no result."""


def inverse_factor(hessian: Tensor, damping: float) -> Tensor:
    """U, upper triangular, with U^T U = (H + damping * mean(diag H) I)^-1; ``[parts, in, in]``, in float64.

    An input that was always 0 has 1 on the diagonal.

    Raises:
        UserError: if inputs are not finite, or nearly dependent, and the damping is too little for that.
    """
    damped = hessian.double()
    diagonal = damped.diagonal(dim1=-2, dim2=-1)
    level = damping * diagonal.mean(-1, keepdim=True)
    damped = damped + torch.diag_embed(torch.where(diagonal > 0, level, 1))
    lower, failed = torch.linalg.cholesky_ex(damped)
    factor: Tensor = lower
    if not bool(failed.any()):
        factor, failed = torch.linalg.cholesky_ex(torch.cholesky_inverse(lower), upper=True)
    if bool(failed.any()) or not bool(factor.isfinite().all()):
        problem = "inputs of a layer are not finite, or so alike that this is too little beside them"
        raise UserError(problem, key="damping", value=damping, hint="0.01 is usual; or look at more samples")
    return factor


def gptq(
    rows: Tensor, hessian: Tensor, at: Grid, scheme: WeightScheme, *, damping: float = 0.01, act_order: bool = False
) -> Tensor:
    """The integers of weights, on a given grid, chosen so that sum_i d_i H d_i^T is small, d = rounded - weights.

    For input j, in order: q_j = round(w_j), and w_k -= (w_j - q_j) U_jk / U_jj for all k > j, with U of
    :func:`inverse_factor`. A weight that is exactly 0, as a pruned one is, stays 0.

    Args:
        rows: ``[out, in]``.
        hessian: ``[parts, in, in]``, the mean of x x^T over the inputs.
        at: The grid, of :func:`~.weights.grid` or :func:`~.blocks.fitted_grid`.
        scheme: The scheme.
        damping: Added to the diagonal, as a part of its mean.
        act_order: Round the inputs with the largest mean squares first.

    Returns:
        Integral values ``[out, in]`` within the scheme's bounds, in float32 or better.

    Reference:
        Frantar et al.: GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers, ICLR 2023.
    """
    parts = len(hessian)
    rows = at_least_float32(rows.detach())
    weights, (scale, zero) = parted(rows, parts).clone(), each_weight(at, rows, scheme)
    scale, zero, kept = parted(scale, parts), parted(zero, parts), weights != 0
    order = None
    if act_order:
        order = hessian.diagonal(dim1=-2, dim2=-1).argsort(dim=-1, descending=True, stable=True)
        hessian = hessian.take_along_dim(order[:, :, None], 1).take_along_dim(order[:, None, :], 2)
        weights, scale, zero, kept = (x.take_along_dim(order[:, None, :], 2) for x in (weights, scale, zero, kept))
    factor = inverse_factor(hessian, damping).to(weights.dtype)
    integers = _rounded(weights, scale, zero, kept, factor, scheme.bounds)
    if order is not None:
        integers = integers.take_along_dim(order.argsort(dim=-1)[:, None, :], 2)
    return integers.reshape(rows.shape)


def _rounded(
    weights: Tensor, scale: Tensor, zero: Tensor, kept: Tensor, factor: Tensor, bounds: tuple[int, int]
) -> Tensor:
    """The integers of ``weights``, which are written over."""
    integers, width = torch.empty_like(weights), weights.shape[-1]
    for begin in range(0, width, _BLOCK):
        end = min(begin + _BLOCK, width)
        errors = torch.empty_like(weights[..., begin:end])
        for j in range(begin, end):
            q = (weights[..., j] / scale[..., j]).round_().add_(zero[..., j]).clamp_(*bounds)
            q = torch.where(kept[..., j], q, zero[..., j])
            error = (weights[..., j] - (q - zero[..., j]) * scale[..., j]) / factor[:, j, j, None]
            integers[..., j], errors[..., j - begin] = q, error
            weights[..., j:end] -= error[..., None] * factor[:, None, j, j:end]
        weights[..., end:] -= errors @ factor[:, begin:end, end:]
    return integers
