"""Convolutions whose weights are integers in an ONNX file, written so that onnxruntime multiplies integers.

Like the layers of :mod:`distill.export.onnx.integer_layers` they exist to be exported.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from distill.export.onnx.integer_layers import DynamicInput, IntegerLayer, StaticInput, dequantize, values

__all__ = ["StaticConv", "WeightOnlyConv", "bias_steps"]

Convolve = Callable[[Tensor, Tensor, Tensor | None], Tensor]
"""Input, weight and bias to output, with the strides and the padding of one layer."""


_SUM = 255 * 128
"""The largest product of an 8-bit input and an 8-bit weight."""


def bias_steps(
    weight: Tensor, scale: Tensor, zero_point: Tensor, bias: Tensor, input_scale: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The bias in steps of the product's grid, input scale * weight scale, as int32 with room for the sums beside it.

    A channel whose weights have all but vanished (pruned away, decayed, or behind a batch norm's small factor) has
    next to no scale, and its bias would take more steps than 32 bits hold. It gets the smallest scale that holds the
    bias, and its weights are rounded to that: they move by half a step, which is 2^-31 of the bias and less.

    Args:
        weight: Integers ``[out, ...]``, int8 or uint8.
        scale: Of the weights, ``[]`` or ``[out]``.
        zero_point: ``[out]``, of the integers' type.
        bias: ``[out]``.
        input_scale: ``[]``.

    Returns:
        Weights, scales ``[out]`` and the bias, in steps; the bias as it was where a sum of the products alone may
        take 31 bits.
    """
    middle = zero_point.int().view(-1, *[1] * (weight.dim() - 1))
    room = 2**31 - 1 - weight[0].numel() * _SUM
    if room < 2**30:
        return weight, scale.expand(len(weight)), bias
    needed = (bias.double().abs() / (input_scale.double() * 2**30)).float() * (1 + 2.0**-20)
    wide = torch.where(needed > scale, needed, scale).clamp_min(2.0**-100)
    ratio = (scale / wide).view(middle.shape)
    rounded = torch.where(ratio < 1, ((weight.int() - middle) * ratio).round().int() + middle, weight.int())
    steps = (bias.double() / (input_scale.double() * wide.double())).round()
    return rounded.to(weight.dtype), wide, steps.int()


class StaticConv(IntegerLayer):
    """y = conv(DQ(Q(x)), DQ(W), DQ(b)), which onnxruntime fuses to one convolution of integers (``QLinearConv``).

    It does where the output is rounded to a grid next: before another such layer, with at most a ReLU or a maximum
    over windows in between. Elsewhere it multiplies floats. The bias is rounded to the product's grid, whose steps are
    those of the input times those of the weights, in 32 bits (:func:`bias_steps`).

    Args:
        convolve: What the layer does.
        input: The input's grid.
        weight: Integers ``[out, in / groups, ...]``, int8 or uint8.
        scale: Of the weights, ``[]`` or ``[out]``.
        zero_point: Of the weights, of the scale's shape and the integers' type.
        bias: ``[out]``, or ``None``.
    """

    zero_point: Tensor
    bias: Tensor
    bias_scale: Tensor
    bias_zero_point: Tensor

    def __init__(
        self,
        convolve: Convolve,
        input: StaticInput,
        weight: Tensor,
        scale: Tensor,
        zero_point: Tensor,
        bias: Tensor | None,
    ) -> None:
        # Without one the exporter would write a bias of its own, in floats.
        bias = torch.zeros(len(weight)) if bias is None else bias.float()
        zero_point = zero_point.expand(len(weight)).contiguous()
        weight, scale, bias = bias_steps(weight, scale, zero_point, bias, input.scale)
        super().__init__(weight, scale, zero_point, bias)
        self.convolve, self.input = convolve, input
        self.register_buffer("bias_scale", input.scale * scale)
        self.register_buffer("bias_zero_point", torch.zeros(len(weight), dtype=torch.int32))

    def forward(self, x: Tensor) -> Tensor:
        bias = self.bias
        if not bias.is_floating_point():
            bias = dequantize(bias, self.bias_scale, self.bias_zero_point, axis=0)
        return self.convolve(self.input(x), dequantize(self.integers, self.scale, self.zero_point, axis=0), bias)


class WeightOnlyConv(IntegerLayer):
    """y = conv(x, W) + b, with weights stored as integers and multiplied as floats.

    Args:
        convolve: What the layer does.
        input: The input's grid, or ``None``.
        weight: Integers ``[out, in / groups, ...]``.
        scale: Of the weights, ``[]``, ``[out]`` or ``[out, groups]``.
        zero_point: Of the scale's shape; ``None`` where it is 0.
        bias: ``[out]``, or ``None``.
    """

    def __init__(
        self,
        convolve: Convolve,
        input: StaticInput | DynamicInput | None,
        weight: Tensor,
        scale: Tensor,
        zero_point: Tensor | None,
        bias: Tensor | None,
    ) -> None:
        super().__init__(weight.flatten(1), _rows(scale), None if zero_point is None else _rows(zero_point), bias)
        self.convolve, self.input, self.shape = convolve, input, weight.shape

    def forward(self, x: Tensor) -> Tensor:
        weight = values(self.integers, self.scale, self.zero_point).view(self.shape)
        return self.convolve(x if self.input is None else self.input(x), weight, self.bias)


def _rows(of_weights: Tensor) -> Tensor:
    """Of each output's groups ``[out, groups]``, also where a whole output is the group; ``[]`` stays."""
    return of_weights.view(len(of_weights), -1) if of_weights.dim() else of_weights
