"""A whole model pruned without training, in its order, by what its layers read.

Some layers at a time are looked at, as many as 256 MiB hold the statistics of, and then pruned: those of one such part
read what they did before, and later parts read what comes of pruned layers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from distill.compression.pruning.granularity import Granularity, as_matrix, from_matrix
from distill.compression.pruning.masks import few, say
from distill.compression.pruning.one_shot import METHODS
from distill.compression.pruning.schedule import check_sparsity
from distill.compression.pruning.weights import PRUNABLE
from distill.compression.quantization.starts.begin import reader
from distill.compression.quantization.starts.statistics import Reader, patches
from distill.core.internals.torch import ConvNd
from distill.core.module_selection import LINEAR, refuse_rewritten, select, sharing
from distill.core.numerics import at_least_float32, full_precision
from distill.core.record import sparsity_step
from distill.core.signals import Positions, tokens_within
from distill.core.utils.errors import UserError

__all__ = ["OneShot", "prune"]

_MEMORY = 256 << 20
"""Bytes of statistics that are held at a time, of one layer at least."""

Progress = Callable[[Sequence[str]], Iterable[str]]


@dataclass(frozen=True)
class OneShot:
    """How a model is pruned at once.

    Attributes:
        method: ``magnitude``, ``wanda`` or ``sparsegpt``.
        sparsity: In [0, 1), of each layer; 0.5 if not given, and 1 - n/m of n:m.
        granularity: ``unstructured``, or n:m such as ``2:4``.
        damping: Of ``sparsegpt``: added to the Hessian's diagonal, as a part of its mean.

    Raises:
        UserError: if a value is out of range.
    """

    method: str = "sparsegpt"
    sparsity: float | None = None
    granularity: str = "unstructured"
    damping: float = 0.01

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            problem = f"must be one of {', '.join(METHODS)}"
            raise UserError(problem, key="method", value=self.method, hint="take sparsegpt")
        if self.units.rows > 1 or (self.units.columns > 1 and not self.units.keep):
            problem, hint = "blocks are pruned in training", "take unstructured, or n:m such as 2:4"
            raise UserError(problem, key="granularity", value=self.granularity, hint=hint)
        if self.sparsity is not None:
            check_sparsity("sparsity", self.sparsity)
            if self.units.keep and self.sparsity != self.units.most:
                problem = f"{self.granularity} is a sparsity of {self.units.most:.4g}"
                raise UserError(problem, key="sparsity", value=self.sparsity, hint="leave it out")
        if not 0 < self.damping < float("inf"):
            raise UserError("must be above 0", key="damping", value=self.damping, hint="write 0.01")

    @property
    def units(self) -> Granularity:
        """What is pruned together."""
        return Granularity.parse(self.granularity)

    @property
    def target(self) -> float:
        """The sparsity of each layer."""
        if self.units.keep:
            return self.units.most
        return 0.5 if self.sparsity is None else self.sparsity

    @property
    def reads_inputs(self) -> bool:
        """Whether it looks at what layers read."""
        return self.method != "magnitude"


@torch.no_grad()
def prune(
    model: nn.Module,
    how: OneShot,
    batches: Sequence[Any] = (),
    forward: Callable[[nn.Module, Any], Any] | None = None,
    *,
    include: Sequence[str] | None = None,
    exclude: Sequence[str] = (),
    progress: Progress = iter,
    key: str = "prune",
) -> dict[str, Any]:
    """Prune the linear maps and convolutions of a model in place, without training it.

    Args:
        model: It is left in eval mode.
        how: The method, and how much.
        batches: Whose inputs are looked at, without padding; none are needed by ``magnitude``.
        forward: How the model reads a batch; by calling it if not given.
        include: Patterns of the layers; all but the head if not given.
        exclude: Patterns of layers that are left.
        progress: Wraps the list of the layers.
        key: Where the settings stand, for error messages.

    Returns:
        The step of ``compression.json``.

    Raises:
        UserError: if a pattern has no effect, or a granularity fits a layer not.
    """
    model.eval()
    chosen = select(model, PRUNABLE, include, exclude, key=key)
    shared = {name for places in sharing(model) for name, _ in places}
    layers = {name: module for name, module in chosen.items() if _is_read(module) and name not in shared}
    refuse_rewritten(layers, key)
    if not layers:
        problem, hint = "no linear map or convolution of 1 or 2 dimensions is chosen", "widen include"
        raise UserError(problem, key=key, hint=hint)
    if left := [name for name in chosen if name not in layers]:
        say("left as they are, for their weights are shared, or read otherwise than row by row: %s", few(left))
    for name, module in layers.items():
        try:
            how.units.check(_matrix(module).shape, name)
        except UserError as error:
            raise error.within(key) from None
    read = reader(model, batches, forward)
    chunks = {some[0]: some for some in _chunks(layers)}
    seen: dict[str, Tensor] = {}
    for name in progress(list(layers)):
        if name in chunks:
            seen = _gather({one: layers[one] for one in chunks[name]}, read) if how.reads_inputs else {}
        rows = _matrix(layers[name])
        hessian = seen.get(name, torch.eye(rows.shape[1], device=rows.device)[None])  # never called: nothing is known
        new = METHODS[how.method](rows, hessian, how.target, how.units, how.damping)
        layers[name].get_parameter("weight").copy_(from_matrix(layers[name], new))
    step = sparsity_step(model, layers)
    return step | {"target": how.target, "granularity": str(how.units), "criterion": how.method}


def _matrix(module: nn.Module) -> Tensor:
    return as_matrix(module, module.get_parameter("weight").detach())


def _is_read(module: nn.Module) -> bool:
    """Whether a layer multiplies what it reads by its rows."""
    if isinstance(module, (nn.Conv1d, nn.Conv2d)):
        return module.padding_mode == "zeros"
    return isinstance(module, LINEAR)


def _groups(module: nn.Module) -> int:
    return int(module.groups) if isinstance(module, ConvNd) else 1


def _chunks(layers: dict[str, nn.Module]) -> Iterator[list[str]]:
    """In their order, as many at a time as :data:`_MEMORY` holds the statistics of."""
    some: list[str] = []
    held = 0
    for name, module in layers.items():
        size = 4 * _groups(module) * _matrix(module).shape[1] ** 2
        if some and held + size > _MEMORY:
            yield some
            some, held = [], 0
        some.append(name)
        held += size
    if some:
        yield some


def _inputs(module: nn.Module, x: Tensor, tokens: Positions) -> Tensor:
    """The inputs ``[parts, n, in]`` that the rows of :func:`as_matrix` are multiplied by, without padding."""
    if not isinstance(module, ConvNd):
        within = tokens_within(x, tokens)
        return (x if within is None else x[within]).reshape(1, -1, x.shape[-1])
    found = patches(module, x)  # [batch, groups * channels * kernel, places]
    groups, places = module.groups, found.shape[-1]
    found = found.view(len(found), groups, module.in_channels // groups, -1, places)
    return found.permute(1, 0, 4, 3, 2).reshape(groups, len(found) * places, -1)


def _gather(layers: dict[str, nn.Module], read: Reader) -> dict[str, Tensor]:
    """The mean of x x^T of what these layers read; of one that is never called none."""
    sums: dict[str, Tensor] = {}
    counts: dict[str, int] = {}
    tokens: list[Positions] = [None]

    def watch(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Any, ...], named: dict[str, Any]) -> None:
            x = at_least_float32(args[0] if args else next(iter(named.values())))
            x = _inputs(module, x, tokens[0])
            with full_precision(x):
                square = x.mT @ x
            sums[name] = sums[name] + square if name in sums else square
            counts[name] = counts.get(name, 0) + x.shape[1]

        return hook

    handles = [module.register_forward_pre_hook(watch(name), with_kwargs=True) for name, module in layers.items()]
    try:
        read(lambda of_batch: tokens.__setitem__(0, of_batch))
    finally:
        for handle in handles:
            handle.remove()
    return {name: total / counts[name] for name, total in sums.items() if counts[name]}
