"""A language model's logits before they are computed: hidden states, and the head that makes logits of them.

Logits ``[B, T, V]`` over a vocabulary of 50,000 or more are the largest tensors of a run by far. What is computed of
them is a sum over positions, or a number for each, so a block of positions at a time is enough
(:mod:`distill.losses.head_terms`, :mod:`distill.core.token_scores`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from distill.core.numerics import at_least_float32, full_precision

__all__ = ["Curve", "LazyLogits"]


@dataclass(frozen=True)
class Curve:
    """What a model does with its head's product z: cap * tanh(scale * z / cap), or scale * z without a cap."""

    scale: float = 1.0
    cap: float | None = None

    def __call__(self, product: Tensor) -> Tensor:
        scaled = product if self.scale == 1 else product * self.scale
        return scaled if self.cap is None else self.cap * torch.tanh(scaled / self.cap)

    def backward(self, product: Tensor, gradient: Tensor) -> Tensor:
        """The gradient with respect to the product, of that with respect to what became of it."""
        if self.cap is not None:
            bent = torch.tanh(product * (self.scale / self.cap))
            gradient = gradient * (1 - bent * bent)
        return gradient if self.scale == 1 else gradient * self.scale


@dataclass(frozen=True)
class LazyLogits:
    """logits = curve(hidden @ weight^T + bias), not computed.

    Attributes:
        hidden: What the head reads, ``[..., H]``.
        weight: ``[V, H]``; rounded, where the head is quantized.
        bias: ``[V]``, or none.
        curve: What follows.
    """

    hidden: Tensor
    weight: Tensor
    bias: Tensor | None = None
    curve: Curve = Curve()

    @property
    def width(self) -> int:
        """V, the number of logits of a position."""
        return len(self.weight)

    @property
    def trained(self) -> bool:
        """Whether anything of it has a gradient."""
        return any(part is not None and part.requires_grad for part in (self.hidden, self.weight, self.bias))

    def detached(self) -> LazyLogits:
        """The same without a graph."""
        bias = None if self.bias is None else self.bias.detach()
        return replace(self, hidden=self.hidden.detach(), weight=self.weight.detach(), bias=bias)

    def at(self, mask: Tensor | None) -> LazyLogits:
        """Of the positions alone that count: hidden states ``[N, H]``.

        Args:
            mask: Boolean, of the shape of the hidden states without their last axis; ``None`` keeps all.
        """
        flat = self.hidden.flatten(0, -2)
        if mask is not None:
            flat = flat.index_select(0, mask.flatten().nonzero().squeeze(1))
        return replace(self, hidden=flat)

    def block(self, part: slice) -> Tensor:
        """The logits of some rows of hidden states ``[N, H]``, in at least float32: ``[n, V]``."""
        with full_precision(self.hidden):
            rows, weight = at_least_float32(self.hidden[part]), at_least_float32(self.weight)
            return self.curve(F.linear(rows, weight, None if self.bias is None else self.bias.to(rows.dtype)))

    def whole(self) -> Tensor:
        """All of the logits, ``[..., V]``, as the model itself computes them."""
        return self.curve(F.linear(self.hidden, self.weight, self.bias))
