"""Layers whose weights are integers in an ONNX file, written so that onnxruntime multiplies integers.

They exist to be exported: outside :func:`torch.onnx.export` the ONNX operators that they name compute nothing.
Inputs are always unsigned, as x86 wants them: a signed grid is moved by 128.
"""

from __future__ import annotations

from typing import overload

import torch
from torch import Tensor, nn
from torch.nn import functional

from distill.compression.quantization.observers import range_qparams

__all__ = [
    "DynamicInput",
    "DynamicLinear",
    "IntegerEmbedding",
    "IntegerLayer",
    "StaticInput",
    "StaticLinear",
    "WeightOnlyLinear",
    "dequantize",
    "shifted",
    "values",
]


def shifted(integers: Tensor, zero_point: Tensor) -> tuple[Tensor, Tensor]:
    """int8 integers and their zero point as uint8, both 128 higher: the same values."""
    return (integers.to(torch.int16) + 128).to(torch.uint8), (zero_point.to(torch.int16) + 128).to(torch.uint8)


def dequantize(q: Tensor, scale: Tensor, zero_point: Tensor, axis: int = 1) -> Tensor:
    """scale * (q - zero point), of one scale or of one for each place along the axis: DequantizeLinear."""
    return torch.onnx.ops.symbolic(
        "DequantizeLinear",
        (q, scale, zero_point),
        {"axis": axis} if scale.dim() else None,
        dtype=torch.float32,
        shape=q.shape,
    )


class StaticInput(nn.Module):
    """A layer's input rounded to a grid of one scale: QuantizeLinear and DequantizeLinear.

    Args:
        scale: Of the grid, ``[]``.
        zero_point: Its integer for 0, ``[]``.
        bounds: Its smallest and largest integer; where they are not those of 8 bits, inputs are clipped before, and of
            more than 8 bits are rounded as floats: QuantizeLinear gives bytes.
    """

    scale: Tensor
    zero_point: Tensor

    def __init__(self, scale: Tensor, zero_point: Tensor, bounds: tuple[int, int]) -> None:
        super().__init__()
        shift = 128 if bounds[0] < 0 else 0
        self.steps = (bounds[0] - int(zero_point), bounds[1] - int(zero_point)) if bounds[1] - bounds[0] > 255 else None
        self.register_buffer("scale", scale.detach().float().reshape(()).clone())
        self.register_buffer("zero_point", (zero_point.detach().reshape(()) + shift).to(torch.uint8))
        low, high = ((bound - float(zero_point)) * float(scale) for bound in bounds)
        self.ends = None if (bounds[0] + shift, bounds[1] + shift) == (0, 255) else (low, high)

    def forward(self, x: Tensor) -> Tensor:
        if self.steps is not None:
            return (x * self.scale.reciprocal()).round().clamp(*self.steps) * self.scale
        x = x if self.ends is None else x.clamp(*self.ends)
        grid = self.scale, self.zero_point
        q = torch.onnx.ops.symbolic("QuantizeLinear", (x, *grid), dtype=torch.uint8, shape=x.shape)
        return dequantize(q, *grid)


class DynamicInput(nn.Module):
    """A layer's input rounded to a grid for each token, of its own range.

    Args:
        bounds: Smallest and largest integer.
        symmetric: Whether the zero point is 0.
        dims: Along which a grid is shared, instead of a token's features.
    """

    def __init__(self, bounds: tuple[int, int], symmetric: bool, dims: tuple[int, ...] = (-1,)) -> None:
        super().__init__()
        self.bounds, self.symmetric, self.dims = bounds, symmetric, dims

    def integers(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The integers, unsigned but still floats ``[..., in]``, their scales and their zero points ``[..., 1]``."""
        low, high = x.amin(self.dims, keepdim=True), x.amax(self.dims, keepdim=True)
        scale, zero_point = range_qparams(low, high, self.bounds, self.symmetric)
        shift = 128 if self.bounds[0] < 0 else 0
        # By the reciprocal, as in training.
        return ((x * scale.reciprocal()).round() + zero_point).clamp(*self.bounds) + shift, scale, zero_point + shift

    def forward(self, x: Tensor) -> Tensor:
        q, scale, zero_point = self.integers(x)
        return (q - zero_point) * scale


class IntegerLayer(nn.Module):
    """Integers with what makes values of them."""

    integers: Tensor
    scale: Tensor
    zero_point: Tensor | None
    bias: Tensor | None

    def __init__(self, weight: Tensor, scale: Tensor, zero_point: Tensor | None, bias: Tensor | None = None) -> None:
        super().__init__()
        self.register_buffer("integers", weight)
        self.register_buffer("scale", scale)
        self.register_buffer("zero_point", zero_point)
        self.register_buffer("bias", bias)

    def biased(self, y: Tensor) -> Tensor:
        return y if self.bias is None else y + self.bias


class _Readable(IntegerLayer):
    """Integers that other modules read too, as ``F.linear(x, embedding.weight)`` does."""

    @property
    def rows(self) -> Tensor:
        """The integers, one row for each scale."""
        return self.integers

    @property
    def weight(self) -> Tensor:
        """Values ``[out, in]``."""
        return values(self.rows, _columns(self.scale), _columns(self.zero_point))


class _ByColumn(_Readable):
    """Integers ``[in, out]``, as products of integers take them."""

    @property
    def rows(self) -> Tensor:
        return self.integers.t()


class StaticLinear(_ByColumn):
    """y = DQ(Q(x)) DQ(W) + b, which onnxruntime fuses to one product of integers.

    Args:
        input: The input's grid.
        weight: Integers ``[in, out]``, int8 or uint8.
        scale: Of the weights, ``[]`` or ``[out]``.
        zero_point: Of the weights, of the scale's shape and the integers' type.
        bias: ``[out]``, or ``None``.
    """

    def __init__(
        self, input: StaticInput, weight: Tensor, scale: Tensor, zero_point: Tensor, bias: Tensor | None
    ) -> None:
        super().__init__(weight, scale, zero_point, bias)
        self.input = input

    def forward(self, x: Tensor) -> Tensor:
        assert self.zero_point is not None
        # A product of two matrices would become a Gemm together with the bias, and no integers be multiplied.
        flat = x.dim() == 2
        rounded: Tensor = self.input(x.unsqueeze(0) if flat else x)
        y = self.biased(rounded @ dequantize(self.integers, self.scale, self.zero_point))
        return y.squeeze(0) if flat else y


class DynamicLinear(_ByColumn):
    """y = s_x s_w ((q_x - z_x) (q_w - z_w)) + b, where each token has a scale and zero point of its own.

    MatMulInteger knows no zero point a row, so z_x times the columns' sums is subtracted from its product.

    Args:
        input: The input's grids.
        weight: Integers ``[in, out]``, int8 or uint8.
        scale: Of the weights, ``[]`` or ``[out]``.
        zero_point: Of the weights, of the scale's shape and the integers' type.
        bias: ``[out]``, or ``None``.
    """

    sums: Tensor

    def __init__(
        self, input: DynamicInput, weight: Tensor, scale: Tensor, zero_point: Tensor, bias: Tensor | None
    ) -> None:
        super().__init__(weight, scale, zero_point, bias)
        self.input = input
        self.register_buffer("sums", (weight.int() - zero_point.int()).sum(0).float())

    def forward(self, x: Tensor) -> Tensor:
        q, scale, zero_point = self.input.integers(x)
        product = torch.onnx.ops.symbolic(
            "MatMulInteger",
            (q.to(torch.uint8), self.integers, None, self.zero_point),
            dtype=torch.int32,
            shape=(*x.shape[:-1], self.integers.shape[1]),
        )
        return self.biased((product.float() - zero_point * self.sums) * (scale * self.scale))


class WeightOnlyLinear(_Readable):
    """y = x W^T + b, with weights stored as integers and multiplied as floats.

    Args:
        input: The input's grid, or ``None``.
        weight: Integers ``[out, in]``.
        scale: Of the weights, ``[]``, ``[out]`` or ``[out, groups]``.
        zero_point: Of the scale's shape; ``None`` where it is 0.
        bias: ``[out]``, or ``None``.
    """

    def __init__(
        self,
        input: StaticInput | DynamicInput | None,
        weight: Tensor,
        scale: Tensor,
        zero_point: Tensor | None,
        bias: Tensor | None,
    ) -> None:
        super().__init__(weight, _columns(scale), _columns(zero_point), bias)
        self.input = input

    def forward(self, x: Tensor) -> Tensor:
        x = x if self.input is None else self.input(x)
        return functional.linear(x, values(self.integers, self.scale, self.zero_point), self.bias)


class IntegerEmbedding(_Readable):
    """Rows looked up as integers, and then multiplied by their scales.

    Args:
        weight: Integers ``[rows, width]``.
        scale: ``[]``, ``[rows]`` or ``[rows, groups]``.
        zero_point: Of the scale's shape; ``None`` where it is 0.
    """

    def __init__(self, weight: Tensor, scale: Tensor, zero_point: Tensor | None) -> None:
        super().__init__(weight, _columns(scale), _columns(zero_point))

    def forward(self, ids: Tensor) -> Tensor:
        rows = functional.embedding(ids, self.integers)
        return values(rows, _looked_up(self.scale, ids), _looked_up(self.zero_point, ids))


@overload
def _looked_up(values: Tensor, ids: Tensor) -> Tensor: ...
@overload
def _looked_up(values: None, ids: Tensor) -> None: ...
def _looked_up(values: Tensor | None, ids: Tensor) -> Tensor | None:
    return functional.embedding(ids, values) if values is not None and values.dim() else values


@overload
def _columns(values: Tensor) -> Tensor: ...
@overload
def _columns(values: None) -> None: ...
def _columns(values: Tensor | None) -> Tensor | None:
    """Scales ``[rows]``, one a row, as ``[rows, 1]``."""
    return values.unsqueeze(-1) if values is not None and values.dim() == 1 else values


def values(integers: Tensor, scale: Tensor, zero_point: Tensor | None) -> Tensor:
    """scale * (integers - zero point) of rows ``[..., width]``; scales ``[]`` or ``[..., groups]``."""
    groups = scale.shape[-1] if scale.dim() else 1
    values = integers.float().reshape(*integers.shape[:-1], groups, -1)
    if zero_point is not None:
        values = values - _spread(zero_point.float())
    return (values * _spread(scale)).flatten(-2)


def _spread(values: Tensor) -> Tensor:
    return values.unsqueeze(-1) if values.dim() else values
