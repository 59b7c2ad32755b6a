"""Scales of channels that make inputs or weights easier to round: SmoothQuant and AWQ.

A scale s of each input channel divides what comes before and multiplies the weights: (x / s) (W s)^T = x W^T.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from distill.compression.quantization.scheme import WeightScheme
from distill.compression.quantization.starts.blocks import output_error, parted
from distill.compression.quantization.weights import grid, integers_of, values_of

__all__ = ["awq_scale", "smoothquant_scale"]

_TRIED = 20
_SMALLEST = 1e-5


def smoothquant_scale(largest_inputs: Tensor, largest_weights: Tensor, alpha: float = 0.5) -> Tensor:
    """s_j = max|X_j|^alpha / max|W_j|^(1 - alpha), and 1 for a channel that is 0 on either side.

    Args:
        largest_inputs: max|X_j| of each channel, ``[in]``.
        largest_weights: max|W_j|, over all layers that read it, ``[in]``.
        alpha: How much of the difficulty goes from the inputs to the weights: 0 none, 1 all.

    Reference:
        Xiao et al.: SmoothQuant: Accurate and Efficient Post-Training Quantization for Large Language Models,
        ICML 2023.
    """
    scale = largest_inputs.pow(alpha) / largest_weights.clamp_min(_SMALLEST).pow(1 - alpha)
    used = (largest_inputs > 0) & (largest_weights > 0)
    return torch.where(used, scale.clamp_min(_SMALLEST), 1)


def awq_scale(
    layers: Sequence[tuple[Tensor, WeightScheme]], hessian: Tensor, mean_inputs: Tensor
) -> tuple[Tensor, float]:
    """s_j = mean|X_j|^a, for that a of 0, 1/20, ... 19/20 by which rounding changes the layers' outputs least.

    The change is the sum over the layers of d H d^T, with d = round(W s) / s - W. Scales are divided by
    sqrt(max s * min s), which changes nothing but keeps them around 1.

    Args:
        layers: Weights ``[out, in]`` that read the same inputs, and their schemes.
        hessian: ``[1, in, in]``, the mean of x x^T.
        mean_inputs: mean|X_j|, ``[in]``.

    Returns:
        The scale ``[in]``, and a; a = 0 is a scale of ones.

    Reference:
        Lin et al.: AWQ: Activation-aware Weight Quantization for LLM Compression and Acceleration, MLSys 2024.
    """
    best, least, exponent = torch.ones_like(mean_inputs), float("inf"), 0.0
    for tried in range(_TRIED):
        scale = mean_inputs.clamp_min(1e-4).pow(tried / _TRIED)
        scale = scale / (scale.max() * scale.min()).sqrt()
        error = 0.0
        for rows, scheme in layers:
            scaled = rows * scale
            at = grid(scaled, scheme)
            change = values_of(integers_of(scaled, at, scheme), at, scheme) / scale - rows
            error += float(output_error(parted(change, 1), hessian).sum())
        if error < least:
            best, least, exponent = scale, error, tried / _TRIED
    return best, exponent
