"""Layers of weights of at most 4 bits, two to a byte, for onnxruntime's own operators.

As those of :mod:`~distill.export.onnx.integer_layers` they exist to be exported.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from distill.export.onnx.integer_layers import DynamicInput, IntegerLayer, StaticInput

__all__ = ["NibbleEmbedding", "NibbleLinear", "Nibbles", "block_of"]


class Nibbles(NamedTuple):
    """Weights of at most 4 bits, two to a byte, in blocks along a row that share a scale.

    Attributes:
        integers: ``[out, in / 2]``.
        scale: ``[out, blocks]``.
        zero_point: Two to a byte, ``[out, blocks / 2]``; ``None`` where it is 0.
        width: ``in``.
        block: Weights of a block.
    """

    integers: Tensor
    scale: Tensor
    zero_point: Tensor | None
    width: int
    block: int

    @classmethod
    def of(cls, rows: Tensor, scale: Tensor, zero_point: Tensor | None) -> Nibbles | None:
        """Integers ``[out, in]`` of -8 to 7; scale and zero point are ``[]``, ``[out]`` or ``[out, groups]``.

        ``None`` where no block is large enough (:func:`block_of`).
        """
        out, width = rows.shape
        groups = scale.shape[1] if scale.dim() == 2 else 1
        group = width // groups
        block = block_of(width, scale)
        if block is None:
            return None

        def of_blocks(given: Tensor) -> Tensor:
            return given.reshape(-1, groups).expand(out, groups).repeat_interleave(group // block, 1)

        zeros = None if zero_point is None else _packed(of_blocks(zero_point))
        return cls(_packed(rows), of_blocks(scale), zeros, width, block)


def block_of(width: int, scale: Tensor) -> int | None:
    """How many weights are a block: the largest power of two that divides a group.

    ``None`` where that is below 16, of which onnxruntime's operators know none.
    """
    group = width // (scale.shape[1] if scale.dim() == 2 else 1)
    block = group & -group
    return block if block >= 16 else None


def _packed(rows: Tensor) -> Tensor:
    """Integers -8 to 7 of each row, 8 higher, two to a byte; the first is the lower half."""
    raised = (functional.pad(rows, (0, rows.shape[1] % 2)) + 8).to(torch.uint8)
    return raised[:, ::2] | (raised[:, 1::2] << 4)


def _unpacked(packed: Tensor, width: int) -> Tensor:
    """The integers of each row, as floats."""
    bytes_ = packed.int()
    return torch.stack([bytes_ % 16, bytes_ // 16], -1).flatten(1)[:, :width].float() - 8


class _Nibbles(IntegerLayer):
    def __init__(self, weights: Nibbles, bias: Tensor | None = None) -> None:
        super().__init__(weights.integers, weights.scale, weights.zero_point, bias)
        self.width, self.block = weights.width, weights.block

    @property
    def weight(self) -> Tensor:
        """Values ``[out, in]``, for what reads them past the layer, as ``F.linear(x, embedding.weight)`` does."""
        rows = _unpacked(self.integers, self.width).view(len(self.scale), -1, self.block)
        zeros = 0 if self.zero_point is None else _unpacked(self.zero_point, rows.shape[1])[..., None]
        return ((rows - zeros) * self.scale[..., None]).flatten(1)


class NibbleLinear(_Nibbles):
    """y = x W^T + b, by ``MatMulNBits``, an operator of onnxruntime.

    Args:
        input: The input's grid, or ``None``.
        weights: W; layers that share it share its tensors.
        bias: ``[out]``, or ``None``.
    """

    def __init__(self, input: StaticInput | DynamicInput | None, weights: Nibbles, bias: Tensor | None) -> None:
        super().__init__(weights, bias)
        self.input = input

    def forward(self, x: Tensor) -> Tensor:
        out = len(self.integers)
        zeros = None if self.zero_point is None else self.zero_point.flatten()
        weights = self.integers.view(out, -1, self.block // 2), self.scale.flatten(), zeros
        return torch.onnx.ops.symbolic(
            "com.microsoft::MatMulNBits",
            (x if self.input is None else self.input(x), *weights, None, self.bias),
            {"N": out, "K": self.width, "bits": 4, "block_size": self.block},
            dtype=torch.float32,
            shape=(*x.shape[:-1], out),
            version=1,
        )


class NibbleEmbedding(_Nibbles):
    """Rows looked up as integers, and then multiplied by their scales: ``GatherBlockQuantized`` of onnxruntime."""

    def forward(self, ids: Tensor) -> Tensor:
        return torch.onnx.ops.symbolic(
            "com.microsoft::GatherBlockQuantized",
            (self.integers, ids, self.scale, self.zero_point),
            {"bits": 4, "block_size": self.block, "gather_axis": 0, "quantize_axis": 1},
            dtype=torch.float32,
            shape=(*ids.shape, self.width),
            version=1,
        )
