"""Layers with masks, and the rankings in which their weights compete."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from distill.errors import TrainingError, UserError, nearest
from distill.prune.criteria import Criterion
from distill.prune.granularity import Granularity, as_matrix, from_matrix
from distill.prune.masks import choose, count_at, exchange, protect

__all__ = ["MASK", "Layer", "Ranking", "rankings"]

MASK = "weight_mask"
"""Name of the buffer, on the weight's module."""


@dataclass(frozen=True)
class Layer:
    """A module whose weight is masked.

    Attributes:
        name: Of the module in the student.
        module: With a ``weight`` and, once prepared, a ``weight_mask``, true where it is kept.
    """

    name: str
    module: nn.Module

    @property
    def weight(self) -> nn.Parameter:
        weight = self.module.weight
        assert isinstance(weight, nn.Parameter)
        return weight

    @property
    def mask(self) -> Tensor:
        mask = getattr(self.module, MASK)
        assert isinstance(mask, Tensor)
        return mask

    @property
    def factor(self) -> Tensor:
        """The mask as 0 and 1: twice as fast to multiply by, as no booleans are converted."""
        return self.mask.view(torch.uint8)

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
        cap: The most of one layer's weights that is pruned.
    """

    layers: Sequence[Layer]
    final: float
    cap: float = 1.0

    def check(self, granularity: Granularity, criterion: Criterion) -> None:
        """Refuse a cap under which the final sparsity cannot be reached, and scores that are not the weights'.

        Raises:
            UserError: with what can be reached, or the shape that is wanted.
        """
        units = [layer.weight.numel() // granularity.size for layer in self.layers]
        most = sum(self._most(count, granularity) for count in units)
        if most < count_at(self.final / granularity.most, sum(units)):
            reached = granularity.most * most / sum(units)
            raise UserError(
                f"under this cap {self.layers[0].name} and those ranked with it reach {reached:.4g} only",
                key="max_layer_sparsity",
                value=self.cap,
                mend=f"for {self.final:.4g} allow more",
            )
        for layer in self.layers:
            scores = criterion.score(layer.module)
            shape = scores.shape
            if shape != layer.weight.shape:
                rule = f"must give a score for each weight of {layer.name}: {tuple(layer.weight.shape)}"
                raise UserError(rule, key="criterion", value=tuple(shape), mend="return scores of the weight's shape")
            if not scores.isfinite().all():
                rule, mend = f"its scores of {layer.name} are not all finite", "return finite scores"
                raise UserError(rule, key="criterion", value=type(criterion).__name__, mend=mend)

    def _most(self, units: int, granularity: Granularity) -> int:
        """How many of a layer's units the cap, which is one of weights, lets be pruned."""
        return min(units, int(self.cap / granularity.most * units))

    @torch.no_grad()
    def update(
        self,
        sparsity: float,
        granularity: Granularity,
        criterion: Criterion,
        gradients: Mapping[str, Tensor] | None = None,
        swapped: float = 0.0,
    ) -> None:
        """Choose the masks anew.

        Args:
            sparsity: Of all weights of the ranking.
            granularity: What is pruned together.
            criterion: Gives the scores.
            gradients: Layer -> magnitudes of the gradient, where pruned weights may come back.
            swapped: The part of the kept weights that may be given for them.

        Raises:
            TrainingError: if a score is not finite.
        """
        units = [self._units(layer, granularity, criterion) for layer in self.layers]
        sizes = [len(part) for part in units]
        cost = torch.cat([protect(granularity.costs(part), self._most(len(part), granularity)) for part in units])
        count = count_at(sparsity / granularity.most, len(cost))
        if gradients:
            parts = [granularity.units(as_matrix(layer.module, gradients[layer.name])).sum(1) for layer in self.layers]
            pruned = exchange(cost, torch.cat(parts), count, count_at(swapped, len(cost) - count))
        else:
            pruned = choose(cost, count)
        for layer, part, chosen in zip(self.layers, units, torch.split(pruned, sizes), strict=True):
            shape = as_matrix(layer.module, layer.mask).shape
            kept = granularity.matrix(granularity.kept(part, chosen), shape)
            layer.mask.copy_(from_matrix(layer.module, kept))
            layer.zero()

    @staticmethod
    def _units(layer: Layer, granularity: Granularity, criterion: Criterion) -> Tensor:
        scores = criterion.score(layer.module)
        if not scores.isfinite().all():
            rule = f"{type(criterion).__name__} gives scores of {layer.name} that are not all finite"
            raise TrainingError(f"{rule}. Lower the learning rate, or clip the gradient (trainer.gradient_clip_val).")
        # Minus infinity for what is pruned, which goes first again; ten times as fast as masked_fill on a CPU.
        scores = scores - layer.factor.reciprocal().sub_(1)
        return granularity.units(as_matrix(layer.module, scores))


def rankings(
    layers: Iterable[Layer], scope: str | Sequence[str], finals: Mapping[str, float], final: float, cap: float, key: str
) -> list[Ranking]:
    """Who competes with whom.

    Args:
        layers: All that are pruned.
        scope: ``global``, ``layer``, or regular expressions of groups; what none finds is one more group.
        finals: Layer -> its own final sparsity; it is ranked by itself.
        final: That of the others.
        cap: The most of one layer that a ranking over several prunes.
        key: Where the patterns stand in the configuration.

    Raises:
        UserError: if a pattern is no regular expression, or found in no layer's name.
    """
    own = [Ranking([layer], finals[layer.name]) for layer in layers if layer.name in finals]
    rest = [layer for layer in layers if layer.name not in finals]
    if scope == "layer":
        return own + [Ranking([layer], final) for layer in rest]
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
        raise UserError(f"not a regular expression ({error})", key=key, value=pattern, mend="mend it") from error
    if not found:
        rule = "found in the name of no layer that overrides and earlier groups have left"
        raise UserError(rule, key=key, value=pattern, mend=nearest(pattern, names))
    return found
