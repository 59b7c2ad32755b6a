"""AdaRound: whether each weight is rounded up or down is trained, by what the layer computes."""

from __future__ import annotations

import torch
from torch import Tensor

from distill.compression.quantization.scheme import WeightScheme
from distill.compression.quantization.starts.blocks import each_weight, output_error, parted
from distill.compression.quantization.weights import Grid
from distill.core.numerics import at_least_float32

__all__ = ["adaround"]

_LOW, _HIGH = -0.1, 1.1  # the stretched sigmoid's ends
_RATE = 0.05
_BETA = 20.0, 2.0
_WARM = 0.2  # of the steps, without the regularizer


def adaround(rows: Tensor, hessian: Tensor, at: Grid, scheme: WeightScheme, *, steps: int = 500) -> Tensor:
    """The integers of weights, each its lower or its upper neighbour on a given grid, with little d H d^T.

    Trained by Adam is V in h = clip(1.2 sigmoid(V) - 0.1, 0, 1), of the integers floor(w / scale) + h, to the least
    d H d^T (a multiple of that of rounding to the nearest) plus sum 1 - \\|2 h - 1\\|^beta, where
    beta falls from 20 to 2. An output for which the nearest integers are better has these; a weight of 0 stays 0.

    Args:
        rows: ``[out, in]``.
        hessian: ``[parts, in, in]``, the mean of x x^T over the inputs.
        at: The grid.
        scheme: The scheme.
        steps: Of training.

    Returns:
        Integral values ``[out, in]`` within the scheme's bounds, in float32 or better.

    Reference:
        Nagel et al.: Up or Down? Adaptive Rounding for Post-Training Quantization, ICML 2020.
    """
    parts = len(hessian)
    rows = at_least_float32(rows.detach())
    scale, zero = (parted(x, parts) for x in each_weight(at, rows, scheme))
    weights, hessian = parted(rows, parts), hessian.to(rows.dtype)
    steps_of = weights / scale + zero
    fixed = (weights == 0) | (steps_of <= scheme.bounds[0]) | (steps_of >= scheme.bounds[1])
    nearest = steps_of.round().clamp_(*scheme.bounds)
    lower = torch.where(fixed, nearest, steps_of.floor())

    def error(integers: Tensor) -> Tensor:
        return output_error((integers - zero) * scale - weights, hessian)

    unit = error(nearest).clamp_min(torch.finfo(rows.dtype).tiny)
    up = _trained(lower, steps_of - lower, fixed, (weights, scale, zero, hessian), unit, steps) >= 0.5
    found = torch.where(fixed, lower, lower + up)
    better = error(found) < error(nearest)
    return torch.where(better[..., None], found, nearest).reshape(rows.shape)


def _trained(
    lower: Tensor, rest: Tensor, fixed: Tensor, layer: tuple[Tensor, Tensor, Tensor, Tensor], unit: Tensor, steps: int
) -> Tensor:
    """h of every weight; the gradient is written out, 2 d H of the error."""
    weights, scale, zero, hessian = layer
    start = ((rest.clamp(0.01, 0.99) - _LOW) / (_HIGH - _LOW)).logit()
    v = torch.where(fixed, 0, start)
    optimizer = torch.optim.Adam([v], lr=_RATE)
    for step in range(steps):
        part = v.sigmoid()
        stretched = part * (_HIGH - _LOW) + _LOW
        h = stretched.clamp(0, 1)
        change = (lower + torch.where(fixed, 0, h) - zero) * scale - weights
        slope = (change @ hessian).mul_(2 * scale / unit[..., None])
        done = (step / steps - _WARM) / (1 - _WARM)
        if done >= 0:
            beta = _BETA[0] + (_BETA[1] - _BETA[0]) * done
            off = 2 * h - 1
            slope -= 2 * beta * off.abs().pow(beta - 1) * off.sign()
        inside = (stretched > 0) & (stretched < 1) & ~fixed
        v.grad = slope.mul_(part * (1 - part) * (_HIGH - _LOW)).mul_(inside)
        optimizer.step()
    return (v.sigmoid() * (_HIGH - _LOW) + _LOW).clamp_(0, 1)
