"""What is logged of quantized layers."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from distill.compression.quantization.layers import QuantizedLayer

__all__ = ["quantization_metrics"]


@torch.no_grad()
def quantization_metrics(layers: Mapping[str, QuantizedLayer], each: bool) -> dict[str, float | Tensor]:
    """Whether rounding and observing are on, mean and widest input range, and mean scales.

    Args:
        layers: By name; not frozen.
        each: Whether ranges and scales are given for every layer too.

    Returns:
        Values of no dimension, by the names that they are logged under.
    """
    values: dict[str, float | Tensor] = {
        "qat/fake_quant": float(any(layer.mode == "fake" for layer in layers.values())),
        "qat/observing": float(any(layer.observing for layer in layers.values())),
    }
    scales = {name: layer.grid().scale.mean() for name, layer in layers.items()}
    ranges = {name: _range(layer) for name, layer in layers.items() if layer.static and layer.ranged}
    values["qat/weight_scale_mean"] = torch.stack(list(scales.values())).mean()
    if ranges:
        widths = torch.stack([high - low for low, high in ranges.values()])
        values |= {"qat/input_range_mean": widths.mean(), "qat/input_range_max": widths.max()}
    if each:
        values |= {f"qat/weight_scale/{name}": scale for name, scale in scales.items()}
        for name, (low, high) in ranges.items():
            values |= {f"qat/input_low/{name}": low, f"qat/input_high/{name}": high}
    return values


def _range(layer: QuantizedLayer) -> Tensor:
    """The range of a static input, ``[2]``: as it was observed, or the ends of its grid where that is trained."""
    scheme = layer.scheme.activations
    if scheme is None or not scheme.learned:
        return layer.input_range
    scale, zero_point = layer.input_qparams()
    return torch.stack([scale * (bound - zero_point) for bound in scheme.bounds])
