"""Layers whose weights are codes of levels: a table, from which ``Gather`` takes them, and scales; or 16-bit floats.

As those of :mod:`~distill.export.onnx.integer_layers` they exist to be exported. No runtime multiplies such weights as
integers: they are small in the file, and floats in the product.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from distill.compression.quantization.formats import levels
from distill.compression.quantization.scheme import WeightScheme
from distill.core.internals.torch import Moved
from distill.export.onnx.integer_layers import DynamicInput, StaticInput

__all__ = ["LevelConv", "LevelEmbedding", "LevelLinear", "Levels"]

_HALVES = {"fp16": torch.float16, "bf16": torch.bfloat16}


class Levels(Moved):
    """Weights by their codes.

    Args:
        codes: ``[out, in]``, as the frozen layer's integers.
        scale: The frozen layer's: ``[]``, ``[out]``, ``[out, groups]``; with a last axis of centroids of ``kmeans``.
        scheme: Of the weights.
    """

    codes: Tensor
    scale: Tensor
    table: Tensor | None

    def __init__(self, codes: Tensor, scale: Tensor, scheme: WeightScheme) -> None:
        super().__init__()
        half, clusters = _HALVES.get(scheme.format), scheme.format == "kmeans"
        if half is not None:
            kept, table = codes.contiguous().view(half), None
        else:
            table = None if clusters else levels(scheme.format, scheme.bits).clone()
            middle = 2 ** (scheme.bits - 1) if table is None else len(table) // 2
            kept = (codes.to(torch.int16) + middle).to(torch.uint8)
        self.clusters, self.floats = clusters, half is not None
        self.register_buffer("codes", kept)
        self.register_buffer("scale", _by_group(scale, scheme))
        self.register_buffer("table", table)

    def moved(self, before: dict[str, Tensor | None]) -> None:
        # The model that is exported is made one of float32.
        self.codes = cast(Tensor, before["codes"])

    def forward(self) -> Tensor:
        """The weights ``[out, in]``."""
        return self.values(self.codes, self.scale)

    def rows(self, ids: Tensor) -> Tensor:
        """The rows ``[..., in]`` of these ids."""
        whole = len(self.scale) == 1
        return self.values(functional.embedding(ids, self.codes), self.scale[0] if whole else self.scale[ids])

    def values(self, codes: Tensor, scale: Tensor) -> Tensor:
        """Weights ``[..., in]``, of scales ``[..., groups]`` or centroids ``[..., groups, K]``."""
        if self.floats:
            return codes.float()
        groups = scale.shape[-2] if self.clusters else scale.shape[-1]
        blocks = codes.long().reshape(*codes.shape[:-1], groups, -1)
        if self.clusters:
            found = scale.expand(*blocks.shape[:-1], scale.shape[-1]).gather(-1, blocks)
        else:
            assert self.table is not None
            found = self.table[blocks] * scale.unsqueeze(-1)
        return found.flatten(-2)


def _by_group(scale: Tensor, scheme: WeightScheme) -> Tensor:
    """Scales ``[out or 1, groups]``, or centroids ``[out or 1, groups, K]``."""
    last = scale.shape[-1:] if scheme.format == "kmeans" else ()
    if scheme.granularity == "tensor":
        return scale.reshape(1, 1, *last)
    return scale.reshape(len(scale), -1, *last)


class LevelLinear(nn.Module):
    """y = x W^T + b.

    Args:
        input: The input's grid, or ``None``.
        weights: W.
        bias: ``[out]``, or ``None``.
    """

    bias: Tensor | None

    def __init__(self, input: StaticInput | DynamicInput | None, weights: Levels, bias: Tensor | None) -> None:
        super().__init__()
        self.input, self.weights = input, weights
        self.register_buffer("bias", bias)

    @property
    def weight(self) -> Tensor:
        """Values ``[out, in]``, for what reads them past the layer."""
        found: Tensor = self.weights()
        return found

    def forward(self, x: Tensor) -> Tensor:
        x = x if self.input is None else self.input(x)
        return functional.linear(x, self.weights(), self.bias)


class LevelConv(LevelLinear):
    """y = conv(x, W) + b.

    Args:
        convolve: What the layer does.
        input: The input's grid, or ``None``.
        weights: W, as rows.
        shape: Of W as ``convolve`` takes it.
        bias: ``[out]``, or ``None``.
    """

    def __init__(
        self,
        convolve: Callable[[Tensor, Tensor, Tensor | None], Tensor],
        input: StaticInput | DynamicInput | None,
        weights: Levels,
        shape: torch.Size,
        bias: Tensor | None,
    ) -> None:
        super().__init__(input, weights, bias)
        self.convolve, self.shape = convolve, shape

    def forward(self, x: Tensor) -> Tensor:
        x = x if self.input is None else self.input(x)
        return self.convolve(x, self.weights().view(self.shape), self.bias)


class LevelEmbedding(nn.Module):
    """Rows looked up by their codes."""

    def __init__(self, weights: Levels) -> None:
        super().__init__()
        self.weights = weights

    @property
    def weight(self) -> Tensor:
        """Values ``[rows, width]``, for what reads them past the layer."""
        found: Tensor = self.weights()
        return found

    def forward(self, ids: Tensor) -> Tensor:
        return self.weights.rows(ids)
