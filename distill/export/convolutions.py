"""Convolutions whose weights are integers in an ONNX file, written so that onnxruntime multiplies integers.

Like the layers of :mod:`distill.export.integers` they exist to be exported.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from distill.export.integers import DynamicInput, IntegerLayer, StaticInput, dequantize, values

__all__ = ["StaticConv", "WeightOnlyConv", "bias_steps"]

Convolve = Callable[[Tensor, Tensor, Tensor | None], Tensor]
"""Input, weight and bias to output, with the strides and the padding of one layer."""


def bias_steps(
    weight: Tensor, scale: Tensor, zero_point: Tensor, bias: Tensor, input_scale: Tensor
) -> tuple[Tensor, Tensor]:
    """The bias in steps of the product's grid, input scale * weight scale, as int32.

    The scale of a channel without weights, such as one that was pruned away, is next to nothing, and so would be its
    steps. Any scale is right for it, and it gets one that leaves it its bias.

    Args:
        weight: Integers ``[out, ...]``.
        scale: Of the weights, ``[]`` or ``[out]``.
        zero_point: ``[out]``.
        bias: ``[out]``.
        input_scale: ``[]``.

    Returns:
        Scales ``[out]``, and the bias; as it was where 32 bits are too few for its steps.
    """
    empty = (weight.flatten(1) == zero_point[:, None]).all(1)
    scale = torch.where(empty, (bias.abs() / (input_scale * 2**24)).clamp_min(2.0**-100), scale)
    steps = (bias.double() / (input_scale * scale).double()).round()
    return scale, steps.int() if bool((steps.abs() < 2**31).all()) else bias


class StaticConv(IntegerLayer):
    """y = conv(DQ(Q(x)), DQ(W), DQ(b)), which onnxruntime fuses to one convolution of integers (``QLinearConv``).

    It does where the output is rounded to a grid next: before another such layer, with at most a ReLU or a maximum
    over windows in between. Elsewhere it multiplies floats. The bias is rounded to the product's grid, whose steps are
    those of the input times those of the weights, in 32 bits; where these are too few it stays a float, and the product
    one of floats.

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
        scale, bias = bias_steps(weight, scale, zero_point, bias, input.scale)
        super().__init__(weight, scale, zero_point, bias)
        self.convolve, self.input = convolve, input
        self.register_buffer("bias_scale", input.scale * scale)
        self.register_buffer("bias_zero_point", torch.zeros(len(weight), dtype=torch.int32))

    def forward(self, x: Tensor) -> Tensor:
        bias = self.bias
        if not bias.is_floating_point():
            bias = dequantize(bias, self.bias_scale, self.bias_zero_point, axis=0)
        return self.convolve(self.input(x), dequantize(self.weight, self.scale, self.zero_point, axis=0), bias)


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
        weight = values(self.weight, self.scale, self.zero_point).view(self.shape)
        return self.convolve(x if self.input is None else self.input(x), weight, self.bias)


def _rows(of_weights: Tensor) -> Tensor:
    """Of each output's groups ``[out, groups]``, also where a whole output is the group; ``[]`` stays."""
    return of_weights.view(len(of_weights), -1) if of_weights.dim() else of_weights
