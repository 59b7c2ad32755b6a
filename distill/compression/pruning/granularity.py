"""Which weights are pruned together."""

from __future__ import annotations

import re
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from distill.core.internals.torch import ConvNd
from distill.core.orientation import TRANSPOSED, output_axis
from distill.core.utils.errors import UserError

__all__ = ["Granularity", "as_matrix", "from_matrix"]


def as_matrix(module: nn.Module, tensor: Tensor) -> Tensor:
    """A tensor of the shape of the module's weight as ``[outputs, inputs]``.

    GPT-2's ``Conv1D`` stores the transpose; a convolution's ``[out, in, k, ...]`` becomes ``[out, k * ... * in]``,
    so that neighbours in a row are inputs of one place in the kernel. Of experts' ``[experts, out, in]`` the outputs
    are those of all.
    """
    if tensor.dim() == 2:
        return tensor.movedim(output_axis(module), 0)
    if isinstance(module, TRANSPOSED):
        groups = module.groups
        inputs, outputs, *kernel = tensor.shape
        tensor = tensor.reshape(groups, inputs // groups, outputs, *kernel).transpose(1, 2)
        tensor = tensor.reshape(groups * outputs, inputs // groups, *kernel)
    elif not isinstance(module, ConvNd):
        return (tensor.transpose(1, 2) if _inputs_first(module) else tensor).flatten(0, 1)
    return tensor.movedim(1, -1).flatten(1)


def from_matrix(module: nn.Module, matrix: Tensor) -> Tensor:
    """The inverse of :func:`as_matrix`: ``[outputs, inputs]`` in the shape of the module's weight."""
    weight = module.weight
    assert isinstance(weight, Tensor)
    if weight.dim() == 2:
        return matrix.movedim(0, output_axis(module))
    if isinstance(module, TRANSPOSED):
        groups = module.groups
        inputs, outputs, *kernel = weight.shape
        tensor = matrix.reshape(groups, outputs, *kernel, inputs // groups).movedim(-1, 1)
        return tensor.reshape(inputs, outputs, *kernel)
    if not isinstance(module, ConvNd):
        experts, *sides = weight.shape
        if _inputs_first(module):
            return matrix.reshape(experts, *reversed(sides)).transpose(1, 2)
        return matrix.reshape(weight.shape)
    outputs, inputs, *kernel = weight.shape
    return matrix.reshape(outputs, *kernel, inputs).movedim(-1, 1)


def _inputs_first(module: nn.Module) -> bool:
    """Of experts: transformers says so of those that keep ``[experts, in, out]``, as GPT-OSS does."""
    return bool(getattr(module, "is_transposed", False))


@dataclass(frozen=True)
class Granularity:
    """A weight matrix ``[outputs, inputs]`` is cut into units of ``rows x columns``; of a pruned one ``keep`` stay.

    ``unstructured``: units of one weight. ``RxC`` (``4x1``, ``16x16``): blocks that go as a whole. ``n:m`` (``2:4``,
    ``4:8``): of each group of m neighbours along the inputs the n best stay; while the schedule runs, a growing
    part of the groups is pruned so.
    """

    rows: int = 1
    columns: int = 1
    keep: int = 0

    @classmethod
    def parse(cls, text: str) -> Granularity:
        """From ``unstructured``, ``RxC`` or ``n:m``.

        Raises:
            UserError: if it is none of them.
        """
        if text == "unstructured":
            return cls()
        if found := re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", text):
            return cls(int(found[1]), int(found[2]))
        if found := re.fullmatch(r"([1-9]\d*):([1-9]\d*)", text):
            keep, group = int(found[1]), int(found[2])
            if keep < group:
                return cls(1, group, keep)
            problem, hint = "keeps n of m weights, n less than m", "write 2:4"
            raise UserError(problem, key="granularity", value=text, hint=hint)
        problem = "must be unstructured, n:m (such as 2:4) or a block RxC (such as 4x1)"
        raise UserError(problem, key="granularity", value=text, hint="choose one")

    @property
    def size(self) -> int:
        """Weights of a unit."""
        return self.rows * self.columns

    @property
    def most(self) -> float:
        """The sparsity of a matrix of which every unit is pruned."""
        return 1 - self.keep / self.size

    def check(self, shape: torch.Size, name: str) -> None:
        """Refuse a matrix that cannot be cut into units.

        Raises:
            UserError: naming the layer.
        """
        for side, part, count in (("outputs", self.rows, shape[0]), ("inputs", self.columns, shape[1])):
            if count % part:
                raise UserError(
                    f"{part} does not divide the {count} {side} of {name}",
                    key="granularity",
                    value=str(self),
                    hint="choose another, or exclude this layer",
                )

    def __str__(self) -> str:
        if self.keep:
            return f"{self.keep}:{self.columns}"
        return "unstructured" if self.size == 1 else f"{self.rows}x{self.columns}"

    def units(self, matrix: Tensor) -> Tensor:
        """``[outputs, inputs]`` as ``[units, size]``."""
        outputs, inputs = matrix.shape
        tiles = matrix.reshape(outputs // self.rows, self.rows, inputs // self.columns, self.columns)
        return tiles.transpose(1, 2).reshape(-1, self.size)

    def matrix(self, units: Tensor, shape: torch.Size) -> Tensor:
        """The inverse of :meth:`units`."""
        outputs, inputs = shape
        tiles = units.reshape(outputs // self.rows, inputs // self.columns, self.rows, self.columns)
        return tiles.transpose(1, 2).reshape(outputs, inputs)

    def costs(self, units: Tensor) -> Tensor:
        """What pruning each unit costs, ``[units]``: the sum of the scores that would go."""
        if self.size == 1:
            return units.squeeze(1)
        if self.keep:
            units = units.topk(self.size - self.keep, dim=1, largest=False).values
        return units.sum(1)

    def kept(self, units: Tensor, pruned: Tensor) -> Tensor:
        """Which weights stay, boolean ``[units, size]``, where the units ``pruned`` (boolean ``[units]``) are pruned.

        Args:
            units: Scores ``[units, size]``; of equal ones of a group those go that come first from a place in it which
                differs from group to group, so that no input is lost to all outputs.
            pruned: Which units are pruned.
        """
        if not self.keep:
            return ~pruned[:, None].expand_as(units)
        places = torch.arange(self.size, device=units.device)
        start = torch.randint(self.size, (len(units), 1), generator=torch.Generator().manual_seed(0))
        turned = (places + start.to(units.device)) % self.size
        order = turned.gather(1, units.gather(1, turned).argsort(dim=1, stable=True))
        best = torch.zeros_like(units, dtype=torch.bool)
        best.scatter_(1, order[:, self.size - self.keep :], True)
        return best | ~pruned[:, None]
