"""Layers with masks, and the rankings in which their weights compete."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from distill.compression.pruning.criteria import Criterion, weight_of
from distill.compression.pruning.granularity import Granularity, as_matrix, from_matrix
from distill.compression.pruning.unit_choice import (
    choose,
    comparable,
    count_at,
    exchange,
    on_one_scale,
    protect,
    spared,
)
from distill.compression.pruning.weights import Sole, name_beside
from distill.core.internals.torch import own_parameters
from distill.core.module_selection import refuse_broken
from distill.core.utils.errors import TrainingError, UserError, nearest_part

__all__ = ["MASK", "Layer", "Ranking", "rankings"]

MASK = "weight_mask"
"""Name of the buffer, on the weight's module."""


@dataclass(frozen=True)
class Layer:
    """A weight that is masked.

    Attributes:
        name: Of the module in the student; with the parameter's where that is not ``weight``.
        module: Once prepared, it has a ``weight_mask``, true where the weight is kept.
        parameter: Name of the weight in the module.
    """

    name: str
    module: nn.Module
    parameter: str = "weight"

    @cached_property
    def view(self) -> nn.Module:
        """The module, as one whose only weight is ``weight``."""
        return self.module if self.parameter == "weight" else Sole(self.module, self.parameter)

    @property
    def path(self) -> str:
        """Name of the weight in the student."""
        return f"{self.name}.weight" if self.parameter == "weight" else self.name

    @property
    def weight(self) -> nn.Parameter:
        weight = own_parameters(self.module)[self.parameter]
        assert weight is not None
        return weight

    @property
    def mask(self) -> Tensor:
        return self.module.get_buffer(name_beside(self.parameter, MASK))

    @property
    def factor(self) -> Tensor:
        """The mask as 0 and 1: twice as fast to multiply by, as no booleans are converted."""
        return self.mask.view(torch.uint8)

    def unscored(self, criterion: Criterion) -> int:
        """How many of the weights that are kept have no score."""
        scored = criterion.scored(self.view)
        return 0 if scored is None else int((~scored & self.mask).sum())

    @torch.no_grad()
    def zero(self) -> None:
        """Have every masked weight be 0.0: adding 0.0 to a product that is -0.0 makes it so."""
        self.weight.mul_(self.factor).add_(0.0)


@dataclass(frozen=True)
class Ranking:
    """Layers whose weights compete for one number of places.

    Attributes:
        layers: These.
        final: The sparsity that they reach together.
        cap: The most of one layer's weights that is pruned; if ``None``, what
            :func:`~distill.compression.pruning.unit_choice.spared` leaves of it.
    """

    layers: Sequence[Layer]
    final: float
    cap: float | None = None

    def check(self, granularity: Granularity, criterion: Criterion) -> None:
        """Refuse a cap under which the final sparsity cannot be reached, and scores that are not the weights'.

        Raises:
            UserError: with what can be reached, or the shape that is wanted.
        """
        total = sum(self._sizes(granularity))
        most = sum(self._most(granularity))
        if self.cap is not None and most < count_at(self.final / granularity.most, total):
            reached = granularity.most * most / total
            raise UserError(
                f"under this cap {self.layers[0].name} and those ranked with it reach {reached:.4g} only",
                key="max_layer_sparsity",
                value=self.cap,
                hint=f"for {self.final:.4g} allow more",
            )
        for layer in self.layers:
            refuse_broken(layer.name, layer.weight, "include", "score")
            scores = criterion.score(layer.view)
            shape = scores.shape
            if shape != layer.weight.shape:
                problem = f"must give a score for each weight of {layer.name}: {tuple(layer.weight.shape)}"
                raise UserError(
                    problem, key="criterion", value=tuple(shape), hint="return scores of the weight's shape"
                )
            if not scores.isfinite().all():
                problem, hint = f"its scores of {layer.name} are not all finite", "return finite scores"
                raise UserError(problem, key="criterion", value=type(criterion).__name__, hint=hint)

    def held(self, granularity: Granularity) -> list[str]:
        """Names of the layers of which the most is pruned that may be, though others are left more of."""
        if len(self.layers) == 1 or granularity.keep:
            return []
        most = zip(self.layers, self._most(granularity), strict=True)
        return [layer.name for layer, units in most if int((~layer.mask).sum()) >= units * granularity.size > 0]

    def _sizes(self, granularity: Granularity) -> list[int]:
        return [layer.weight.numel() // granularity.size for layer in self.layers]

    def _most(self, granularity: Granularity, left: Sequence[int] | None = None) -> list[int]:
        """How many units of each layer may be pruned, under a cap which is one of weights.

        Args:
            granularity: What is pruned together.
            left: How many units each layer has, if some are to be taken out.
        """
        sizes = self._sizes(granularity) if left is None else [*left]
        if self.cap is not None:
            return [min(count, int(self.cap / granularity.most * count)) for count in sizes]
        if granularity.keep:
            return sizes  # some of every group stay
        pruned = min(count_at(self.final, sum(sizes)), sum(sizes) - len(sizes))
        return [count - least for count, least in zip(sizes, spared(sizes, pruned), strict=True)]

    @torch.no_grad()
    def update(
        self,
        sparsity: float,
        granularity: Granularity,
        criterion: Criterion,
        gradients: Mapping[str, Tensor] | None = None,
        swapped: float = 0.0,
        present: Mapping[str, Tensor] | None = None,
    ) -> None:
        """Choose the masks anew.

        Args:
            sparsity: Of all weights of the ranking.
            granularity: What is pruned together.
            criterion: Gives the scores.
            gradients: Layer -> magnitudes of the gradient, where pruned weights may come back.
            swapped: The part of the kept weights with a gradient that may be given for them.
            present: Layer -> which of its weights are not to be taken out, of its shape; only single weights are pruned
                then. Others are not masked, and do not count.

        Raises:
            TrainingError: if a score is not finite.
        """
        found = [self._units(layer, granularity, criterion, (present or {}).get(layer.name)) for layer in self.layers]
        units, blind = zip(*found, strict=True)
        sizes = [len(part) for part in units]
        if gradients:
            # What came back starts at 0, beside weights that no exchange ever touched.
            blind = tuple(one | ~gradients[layer.name].any() for layer, one in zip(self.layers, blind, strict=True))
        costs = on_one_scale(torch.cat([granularity.costs(part) for part in units]), torch.cat(blind))
        left = sizes
        if present:
            there = [self._there(layer, granularity, present) for layer in self.layers]
            costs = costs.masked_fill(~torch.cat(there), math.inf)
            left = torch.stack([part.sum() for part in there]).tolist()
        most = zip(torch.split(costs, sizes), self._most(granularity, left), strict=True)
        cost = torch.cat([protect(part, count) for part, count in most])
        count = min(count_at(sparsity / granularity.most, sum(left)), int((cost < math.inf).count_nonzero()))
        if gradients:
            parts = [granularity.units(as_matrix(layer.view, gradients[layer.name])).sum(1) for layer in self.layers]
            learnt = torch.cat(parts)
            if present:
                learnt = learnt * torch.cat(there)
            pruned = exchange(cost, learnt, count, swapped)
        else:
            pruned = choose(cost, count)
        for layer, part, chosen in zip(self.layers, units, torch.split(pruned, sizes), strict=True):
            shape = as_matrix(layer.view, layer.mask).shape
            kept = granularity.matrix(granularity.kept(part, chosen), shape)
            layer.mask.copy_(from_matrix(layer.view, kept))
            layer.zero()

    @staticmethod
    def _there(layer: Layer, granularity: Granularity, present: Mapping[str, Tensor]) -> Tensor:
        """Which units of a layer are not to be taken out."""
        own = present.get(layer.name, torch.ones_like(layer.mask))
        return granularity.units(as_matrix(layer.view, own)).any(1)

    def _units(
        self, layer: Layer, granularity: Granularity, criterion: Criterion, present: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Scores ``[units, size]``, and of which units none of the weights has one: there they are magnitudes."""
        scores, scored = criterion.score(layer.view), criterion.scored(layer.view)
        if not scores.isfinite().all():
            problem = f"{type(criterion).__name__} gives scores of {layer.name} that are not all finite"
            raise TrainingError(
                f"{problem}. Lower the learning rate, or clip the gradient (trainer.gradient_clip_val)."
            )
        # What is to be taken out is 0, and lowers the root mean square that scores are multiples of.
        part = 1.0 if present is None else float(present.float().mean()) ** 0.5
        units = self._of_layer(layer, scores, granularity, part, as_is=criterion.comparable)
        if scored is None:
            return units, torch.zeros(len(units), dtype=torch.bool, device=units.device)
        blind = ~granularity.units(as_matrix(layer.view, scored)).any(1)
        instead = self._of_layer(layer, weight_of(layer.view).abs(), granularity, part)
        return instead.where(blind[:, None], units), blind

    def _of_layer(
        self, layer: Layer, scores: Tensor, granularity: Granularity, part: float = 1.0, *, as_is: bool = False
    ) -> Tensor:
        if len(self.layers) > 1 and not as_is:
            scores = comparable(scores) * part
        # Minus infinity for what is pruned, which goes first again; ten times as fast as masked_fill on a CPU.
        scores = scores - layer.factor.reciprocal().sub_(1)
        return granularity.units(as_matrix(layer.view, scores))


def rankings(
    layers: Iterable[Layer],
    scope: str | Sequence[str],
    finals: Mapping[str, float],
    final: float,
    cap: float | None,
    key: str,
) -> list[Ranking]:
    """Who competes with whom.

    Args:
        layers: All that are pruned.
        scope: ``global``, ``layer``, or regular expressions of groups; what none finds is one more group.
        finals: Layer -> its own final sparsity; it is ranked by itself.
        final: That of the others.
        cap: The most of one layer that a ranking over several prunes; see :class:`Ranking`.
        key: Where the patterns stand in the configuration.

    Raises:
        UserError: if a pattern is no regular expression, or found in no layer's name.
    """
    alone = None if cap is None else 1.0  # a cap moves what is pruned to other layers, and there it has none
    own = [Ranking([layer], finals[layer.name], alone) for layer in layers if layer.name in finals]
    rest = [layer for layer in layers if layer.name not in finals]
    if scope == "layer":
        return own + [Ranking([layer], final, alone) for layer in rest]
    groups: list[list[Layer]] = []
    for index, pattern in enumerate(() if isinstance(scope, str) else scope):
        group = _found(pattern, rest, f"{key}.{index}")
        groups.append(group)
        rest = [layer for layer in rest if layer not in group]
    return own + [Ranking(group, final, cap) for group in (*groups, rest) if group]


def _found(pattern: str, layers: Sequence[Layer], key: str) -> list[Layer]:
    names = [layer.name for layer in layers]
    try:
        found = [layer for layer in layers if re.search(pattern, layer.name)]
    except re.error as error:
        raise UserError(f"not a regular expression ({error})", key=key, value=pattern, hint="correct it") from error
    if not found:
        problem = "found in the name of no layer that overrides and earlier groups have left"
        raise UserError(problem, key=key, value=pattern, hint=nearest_part(pattern, names))
    return found
