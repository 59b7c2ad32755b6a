"""Convolutions that compute with quantized weights and inputs."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor, nn
from torch.nn import functional as F

from distill.compression.quantization.base import QuantizedLayer
from distill.core.internals.torch import ConvNd, ConvTransposeNd, convolution, output_padding

__all__ = [
    "QuantizedConv",
    "QuantizedConv1d",
    "QuantizedConv2d",
    "QuantizedConv3d",
    "QuantizedConvTranspose",
    "QuantizedConvTranspose1d",
    "QuantizedConvTranspose2d",
    "QuantizedConvTranspose3d",
]


class QuantizedConv(QuantizedLayer, ConvNd):
    """What convolutions have in common: a dynamic scale is a sample's."""

    def by_position(self, x: Tensor) -> Tensor:
        return x.mT if self.parameter.dim() == 3 else x

    def _sharing(self, x: Tensor) -> tuple[int, ...]:
        return tuple(range(x.dim() - self.parameter.dim() + 1, x.dim()))

    def forward(self, input: Tensor) -> Tensor:
        return convolution(self)(self.quantized_input(input), self.quantized_weight(), self.bias)


class QuantizedConv1d(QuantizedConv, nn.Conv1d):
    """A convolution over a sequence."""

    plain = nn.Conv1d


class QuantizedConv2d(QuantizedConv, nn.Conv2d):
    """A convolution over an image."""

    plain = nn.Conv2d


class QuantizedConv3d(QuantizedConv, nn.Conv3d):
    """A convolution over a volume."""

    plain = nn.Conv3d


class QuantizedConvTranspose(QuantizedLayer, ConvTransposeNd):
    """What transposed convolutions have in common: weights are stored ``[in, out / groups, ...]``."""

    _function: ClassVar[Any]

    def as_rows(self, weight: Tensor) -> Tensor:
        parts: Tensor = weight.unflatten(0, (self.groups, -1)).transpose(1, 2)  # type: ignore[no-untyped-call]
        return parts.flatten(0, 1).flatten(1)

    def from_rows(self, rows: Tensor) -> Tensor:
        into, out, *size = self.parameter.shape
        parts = rows.reshape(self.groups, out, into // self.groups, *size)
        return parts.transpose(1, 2).flatten(0, 1)

    def by_position(self, x: Tensor) -> Tensor:
        return x.mT if self.parameter.dim() == 3 else x

    def _sharing(self, x: Tensor) -> tuple[int, ...]:
        return tuple(range(x.dim() - self.parameter.dim() + 1, x.dim()))

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        return self._convolved(self.quantized_input(input), self.quantized_weight(), self.bias, output_size)

    def convolve(self, x: Tensor, rows: Tensor, bias: Tensor | None) -> Tensor:
        """What the layer does, with weights given as rows."""
        return self._convolved(x, self.from_rows(rows), bias)

    def _convolved(
        self, x: Tensor, weight: Tensor, bias: Tensor | None, output_size: list[int] | None = None
    ) -> Tensor:
        layer: Any = self
        more = output_padding(self, x, output_size)
        out: Tensor = layer._function(x, weight, bias, layer.stride, layer.padding, more, layer.groups, layer.dilation)
        return out


class QuantizedConvTranspose1d(QuantizedConvTranspose, nn.ConvTranspose1d):
    """A transposed convolution over a sequence."""

    plain, _function = nn.ConvTranspose1d, staticmethod(F.conv_transpose1d)


class QuantizedConvTranspose2d(QuantizedConvTranspose, nn.ConvTranspose2d):
    """A transposed convolution over an image."""

    plain, _function = nn.ConvTranspose2d, staticmethod(F.conv_transpose2d)


class QuantizedConvTranspose3d(QuantizedConvTranspose, nn.ConvTranspose3d):
    """A transposed convolution over a volume."""

    plain, _function = nn.ConvTranspose3d, staticmethod(F.conv_transpose3d)
