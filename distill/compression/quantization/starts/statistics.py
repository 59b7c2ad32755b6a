"""What layers read: the mean of x x^T, mean and largest sizes, gathered batch by batch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from distill.compression.quantization.base import QuantizedLayer
from distill.compression.quantization.convolutions import QuantizedConv, QuantizedConv1d, QuantizedConv2d
from distill.compression.quantization.layers import QuantizedLinear, QuantizedTransposedLinear
from distill.core.numerics import at_least_float32, full_precision
from distill.core.signals import Positions, tokens_within

__all__ = ["InputStatistics", "Reader", "agreed", "gather", "hessian_bytes", "is_read", "patches"]

Reader = Callable[[Callable[[Any], None]], None]
"""Runs the model over all batches, and calls back before each with the positions that hold a token."""


def _distributed() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def agreed(holds: bool, device: torch.device) -> bool:
    """Whether something holds on all ranks."""
    if not _distributed():
        return holds
    found = torch.tensor(int(holds), device=device)
    torch.distributed.all_reduce(found, op=torch.distributed.ReduceOp.MIN)
    return bool(found)


class InputStatistics:
    """Sums over the inputs of a layer.

    Attributes:
        squares: Sum of x x^T, ``[parts, in, in]``.
        sizes: Sum of \\|x\\|, ``[parts, in]``.
        largest: max \\|x\\|, ``[parts, in]``.
        count: How many inputs, ``[]``.
    """

    def __init__(self, layer: QuantizedLayer) -> None:
        parts, width, device = _parts(layer), layer.rows.shape[1], layer.weight.device
        self.squares = torch.zeros(parts, width, width, device=device)
        self.sizes = torch.zeros(parts, width, device=device)
        self.largest = torch.zeros(parts, width, device=device)
        self.count = torch.zeros((), device=device)

    def add(self, x: Tensor) -> None:
        """Take in inputs ``[parts, n, in]``."""
        x = at_least_float32(x).to(self.squares.dtype)
        with full_precision(x):
            self.squares.baddbmm_(x.mT, x)
        self.sizes += x.abs().sum(1)
        if x.shape[1]:
            self.largest = torch.maximum(self.largest, x.abs().amax(1))
        self.count += x.shape[1]

    def reduce(self) -> None:
        """Join what all ranks have seen."""
        if not _distributed():
            return
        for sums in (self.squares, self.sizes, self.count):
            torch.distributed.all_reduce(sums)
        torch.distributed.all_reduce(self.largest, op=torch.distributed.ReduceOp.MAX)

    @property
    def hessian(self) -> Tensor:
        """The mean of x x^T, ``[parts, in, in]``."""
        return self.squares / self.count.clamp_min(1)

    @property
    def mean_size(self) -> Tensor:
        """The mean of \\|x\\|, ``[parts, in]``."""
        return self.sizes / self.count.clamp_min(1)


def is_read(layer: QuantizedLayer) -> bool:
    """Whether the layer multiplies its input by its rows: linear maps, convolutions of 1 and 2 dimensions."""
    if isinstance(layer, (QuantizedConv1d, QuantizedConv2d)):
        return layer.padding_mode == "zeros"
    return isinstance(layer, (QuantizedLinear, QuantizedTransposedLinear))


def _parts(layer: QuantizedLayer) -> int:
    return layer.groups if isinstance(layer, QuantizedConv) else 1


def hessian_bytes(layer: QuantizedLayer) -> int:
    """What its statistics take."""
    return int(4 * _parts(layer) * layer.rows.shape[1] ** 2)


def inputs_of(layer: QuantizedLayer, x: Tensor, tokens: Positions) -> Tensor:
    """The inputs ``[parts, n, in]`` that the rows of the weight are multiplied by, without padding."""
    x = x.detach()
    if not isinstance(layer, QuantizedConv):
        within = tokens_within(x, tokens)
        return (x if within is None else x[within]).reshape(1, -1, x.shape[-1])
    found = patches(layer, x)  # [batch, channels * kernel, places]
    return found.unflatten(1, (layer.groups, -1)).permute(1, 0, 3, 2).flatten(1, 2)  # type: ignore[no-untyped-call, no-any-return]


def patches(layer: Any, x: Tensor) -> Tensor:
    """What each place of a convolution's output is made of, ``[batch, channels * kernel, places]``."""
    ends: list[int] = []
    for size, dilation, padding in zip(layer.kernel_size, layer.dilation, _padding(layer), strict=True):
        before = dilation * (size - 1) // 2 if padding is None else padding
        after = dilation * (size - 1) - before if padding is None else padding
        ends = [before, after, *ends]
    x = F.pad(x if x.dim() == len(layer.kernel_size) + 2 else x.unsqueeze(0), ends)
    if len(layer.kernel_size) == 1:
        one = (1, *layer.kernel_size), (1, *layer.dilation), (1, *layer.stride)
        return F.unfold(x.unsqueeze(-2), one[0], dilation=one[1], stride=one[2])
    return F.unfold(x, layer.kernel_size, dilation=layer.dilation, stride=layer.stride)


def _padding(layer: Any) -> tuple[int | None, ...]:
    """Of each dimension; ``None`` where it is what keeps the size."""
    if isinstance(layer.padding, str):
        return (None if layer.padding == "same" else 0,) * len(layer.kernel_size)
    return tuple(int(padding) for padding in layer.padding)


@contextmanager
def _watched(found: Mapping[QuantizedLayer, InputStatistics], tokens: list[Positions]) -> Iterator[None]:
    def watch(layer: nn.Module, args: tuple[Any, ...], named: dict[str, Any]) -> None:
        assert isinstance(layer, QuantizedLayer)
        x = args[0] if args else next(iter(named.values()))
        found[layer].add(inputs_of(layer, x, tokens[0]))

    handles = [layer.register_forward_pre_hook(watch, with_kwargs=True) for layer in found]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def gather(layers: Iterable[QuantizedLayer], read: Reader) -> dict[QuantizedLayer, InputStatistics]:
    """Statistics of what these layers read, over all batches and ranks; of a layer that was not called none.

    Args:
        layers: Some of the model's, each :func:`is_read`.
        read: Runs the model.
    """
    found = {layer: InputStatistics(layer) for layer in layers}
    tokens: list[Positions] = [None]

    def begin(of_batch: Tensor | None) -> None:
        tokens[0] = of_batch

    with _watched(found, tokens):
        read(begin)
    for statistics in found.values():
        statistics.reduce()
    return {layer: statistics for layer, statistics in found.items() if statistics.count > 0}
