"""Linear maps that compute with quantized weights and inputs."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.pytorch_utils import Conv1D

from distill.compression.quantization.base import QuantizedLayer

__all__ = ["QuantizedLinear", "QuantizedTransposedLinear"]


class QuantizedLinear(QuantizedLayer, nn.Linear):
    """A linear map."""

    plain = nn.Linear

    def operands(self, input: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Input, weight and bias as they are multiplied."""
        return self.quantized_input(input), self.quantized_weight(), self.bias

    def forward(self, input: Tensor) -> Tensor:
        return F.linear(*self.operands(input))


class QuantizedTransposedLinear(QuantizedLayer, Conv1D):  # type: ignore[misc]
    """GPT-2's linear map, whose weight is stored as ``[in, out]``."""

    plain = Conv1D

    def as_rows(self, weight: Tensor) -> Tensor:
        return weight.t()

    def from_rows(self, rows: Tensor) -> Tensor:
        return rows.t()

    def forward(self, x: Tensor) -> Tensor:
        x = self.quantized_input(x)
        out = torch.addmm(self.bias, x.view(-1, x.size(-1)), self.quantized_weight())
        return out.view(*x.shape[:-1], self.nf)
