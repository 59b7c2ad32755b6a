"""What of a student is pruned, and how: prepared, masked update by update, finished."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from distill.compression.pruning.criteria import Criterion
from distill.compression.pruning.granularity import Granularity, as_matrix
from distill.compression.pruning.rankings import MASK, Layer, Ranking, rankings
from distill.compression.pruning.schedule import check_sparsity
from distill.compression.pruning.weights import check_written, name_beside, weights_of
from distill.core.internals.torch import own_parameters
from distill.core.module_selection import CHOOSE, check_overrides, check_pattern, override, select
from distill.core.ranks import is_rank_zero
from distill.core.utils.errors import UserError

__all__ = ["MaskingPlan", "Masks"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class MaskingPlan:
    """What is pruned and how; when is a matter of the schedule.

    Attributes:
        final: The sparsity that is reached in the end.
        granularity: What is pruned together.
        criterion: What a weight is worth.
        scope: ``global``, ``layer``, or regular expressions of groups.
        kinds: Modules whose weights are pruned.
        include: Regular expressions searched in their names; all but the head if ``None``.
        exclude: Likewise, of those to leave out.
        overrides: Regular expression -> final sparsity of the layers in whose name it is found.
        max_layer_sparsity: The most of one layer that is pruned, where a ranking is over several; if ``None``, by the
            layer's size and ``final``.
        regrow: The part of the kept weights that an update may give for pruned ones.

    Raises:
        UserError: if a value is out of range, or two contradict each other.
    """

    final: float
    granularity: Granularity
    criterion: Criterion
    scope: str | Sequence[str]
    kinds: tuple[type[nn.Module], ...]
    include: Sequence[str] | None
    exclude: Sequence[str]
    overrides: Mapping[str, float]
    max_layer_sparsity: float | None
    regrow: float

    def __post_init__(self) -> None:
        for pattern, value in self.overrides.items():
            check_sparsity(f"overrides.{pattern}", value)
            if value and not self.final:
                problem, hint = "follows the schedule of final_sparsity, which is 0", "give that one a value"
                raise UserError(problem, key=f"overrides.{pattern}", value=value, hint=hint)
        if self.granularity.keep:
            self._check_groups()
        if self.max_layer_sparsity is not None:
            self._check_cap(self.max_layer_sparsity)
        if not 0 <= self.regrow < 1:
            raise UserError("must lie in [0, 1)", key="regrow", value=self.regrow, hint="write 0.3, or 0 for none")

    def _check_cap(self, cap: float) -> None:
        """Refuse one that is none, and one where a layer is ranked by itself, and so would not feel it."""
        if not 0 < cap <= 1:
            problem, hint = "must lie in (0, 1]", "1.0 allows that a layer is pruned away; leave it out"
            raise UserError(problem, key="max_layer_sparsity", value=cap, hint=hint)
        if cap < 1 and self.scope == "layer":
            problem = "with a ranking for each layer (scope: layer) there is nothing to prune elsewhere instead"
            hint = "set scope: global, or lower final_sparsity"
            raise UserError(problem, key="max_layer_sparsity", value=cap, hint=hint)
        for pattern, value in self.overrides.items():
            if value > cap:
                problem, hint = f"lies above max_layer_sparsity, {cap:g}", "lower this one, or raise that one"
                raise UserError(problem, key=f"overrides.{pattern}", value=value, hint=hint)

    def _check_groups(self) -> None:
        """Of n:m, whose sparsity is given by itself."""
        most = self.granularity.most
        values = {f"overrides.{pattern}": value for pattern, value in self.overrides.items() if value}
        for key, value in (values | {"final_sparsity": self.final}).items():
            if value != most:
                problem, hint = f"{self.granularity} is a sparsity of {most:.4g}", "leave it out, or change granularity"
                raise UserError(problem, key=key, value=value, hint=hint)
        if self.regrow:
            problem, hint = "is for unstructured pruning and blocks", f"leave it out with {self.granularity}"
            raise UserError(problem, key="regrow", value=self.regrow, hint=hint)

    def prepare(self, student: nn.Module, key: str) -> Masks:
        """Give the student's layers masks, with nothing pruned yet.

        Args:
            student: It gets buffers.
            key: Where the settings stand in the configuration.

        Raises:
            UserError: if a pattern has no effect, the names of one tied weight are given different sparsities, or the
                granularity or the criterion fits a layer not.
        """
        chosen = select(student, self.kinds, self.include, self.exclude, key=key)
        layers: dict[int, Layer] = {}
        for name, module in chosen.items():
            check_written(name, module, key)
            for weight_name in weights_of(module):
                layer = Layer(_label(name, weight_name), module, weight_name)
                layers.setdefault(id(layer.weight), layer)  # tied weights have one mask
        names: dict[str, Layer] = {}
        modules = set()
        for name, module in student.named_modules():
            for weight_name, weight in own_parameters(module).items():
                if id(weight) in layers:
                    names[_label(name, weight_name)] = layers[id(weight)]
                    modules.add(name)
        check_overrides(student, self.overrides, modules, f"{key}.overrides")
        for index, pattern in enumerate(() if isinstance(self.scope, str) else self.scope):
            check_pattern(student, pattern, modules, f"{key}.scope.{index}", CHOOSE)
        own = self._own(names, f"{key}.overrides")
        pruned = [layer for layer in layers.values() if own.get(layer.name) != 0]
        if not pruned:
            problem, hint = "leave no layer to prune", "give one of them a sparsity above 0"
            raise UserError(problem, key=f"{key}.overrides", value=self.overrides, hint=hint)
        pruned = self._with_scores(pruned, key)
        try:
            return Masks(self, pruned, own)
        except UserError as error:
            raise error.within(key) from None

    def _with_scores(self, layers: Sequence[Layer], key: str) -> list[Layer]:
        """Those that the criterion can score; the others stay as they are, and are named."""
        name, able = type(self.criterion).__name__, list(layers)
        for applies, lack, without in (
            (
                self.criterion.by_gradient,
                "a gradient, as they are frozen",
                lambda layer: not layer.weight.requires_grad,
            ),
            (self.criterion.by_input, "an input of one map", lambda layer: layer.parameter != "weight"),
        ):
            left = [layer.name for layer in able if applies and without(layer)]
            able = [layer for layer in able if layer.name not in left]
            if not able:
                problem = f"all layers to prune are without {lack}, which it reads"
                raise UserError(problem, key=f"{key}.criterion", value=name.lower(), hint="take magnitude")
            if left:
                _say(f"not pruned, for {name} reads {lack.split(',')[0]}, and they have none: %s", _few(left))
        return able

    def _own(self, layers: Mapping[str, Layer], key: str) -> dict[str, float]:
        """Layer -> the sparsity that overrides give it, by whichever name of its weight."""
        own: dict[str, float] = {}
        for name, layer in layers.items():
            value = override(name, self.overrides, None)
            if value is not None and own.setdefault(layer.name, value) != value:
                problem, hint = f"{layer.name} and {name} are one weight", "give both the same sparsity"
                raise UserError(problem, key=key, value=self.overrides, hint=hint)
        return own


class Masks:
    """The masks of a student's layers. Their state is in the layers' buffers.

    Args:
        plan: How they are chosen.
        layers: These; they get their buffers.
        own: Layer -> a final sparsity of its own.

    Raises:
        UserError: if the granularity, the criterion, a group or the cap fits a layer not.
    """

    def __init__(self, plan: MaskingPlan, layers: Sequence[Layer], own: Mapping[str, float]) -> None:
        self.plan, self.layers = plan, layers
        for layer in layers:
            plan.granularity.check(as_matrix(layer.view, layer.weight).shape, layer.name)
            layer.view.register_buffer(MASK, torch.ones_like(layer.weight, dtype=torch.bool))
            plan.criterion.prepare(layer.view, layer.name)
        self._rankings: list[Ranking] = rankings(layers, plan.scope, own, plan.final, plan.max_layer_sparsity, "scope")
        for ranking in self._rankings:
            ranking.check(plan.granularity, plan.criterion)

    @property
    def buffers(self) -> list[str]:
        """Names of all buffers in the student."""
        return [
            f"{layer.path.removesuffix(layer.parameter)}{buffer}"
            for layer in self.layers
            for buffer in self._buffers(layer)
        ]

    def _buffers(self, layer: Layer) -> list[str]:
        return [name_beside(layer.parameter, buffer) for buffer in (MASK, *self.plan.criterion.buffers)]

    def zero(self) -> None:
        """Have every masked weight be zero."""
        for layer in self.layers:
            layer.zero()

    def gradients(self) -> dict[str, Tensor]:
        """Layer -> magnitudes of its gradient now."""
        return {layer.name: _magnitude(layer.weight) for layer in self.layers}

    def update(self, target: float, gradients: Mapping[str, Tensor], swapped: float) -> dict[str, float]:
        """Choose the masks anew, from the scores as they are. Done twice it changes nothing.

        Args:
            target: The sparsity, of a way that ends at the plan's; those of overrides are as far on theirs.
            gradients: Of :meth:`gradients`, where pruned weights may come back.
            swapped: The part of the kept weights that may be given for them.

        Returns:
            What is logged, under ``prune/``: target, sparsity of all and of each layer, and the part that changed.
        """
        plan, before = self.plan, [layer.mask.clone() for layer in self.layers]
        for ranking in self._rankings:
            sparsity = target * (ranking.final / plan.final)
            ranking.update(sparsity, plan.granularity, plan.criterion, gradients, swapped)
        return {"prune/target_sparsity": target} | self._measure(before)

    def _measure(self, before: Sequence[Tensor]) -> dict[str, float]:
        """What became of the masks, read from the device at once."""
        kept = torch.stack([layer.mask.sum() for layer in self.layers])
        changed = torch.stack([(layer.mask != old).sum() for layer, old in zip(self.layers, before, strict=True)])
        *counts, churn = torch.cat([kept, changed.sum()[None]]).tolist()
        sizes = [layer.weight.numel() for layer in self.layers]
        whole = {"prune/sparsity": 1 - sum(counts) / sum(sizes), "prune/churn": churn / sum(sizes)}
        return whole | {
            f"prune/sparsity/{layer.name}": 1 - count / size
            for layer, count, size in zip(self.layers, counts, sizes, strict=True)
        }

    def finish(self) -> dict[str, Any]:
        """Leave zeros and no buffers, and say what was done: a step of ``compression.json``."""
        self.zero()
        notes = self._notes()
        layers = {}
        for layer in self.layers:
            for name in self._buffers(layer):
                delattr(layer.module, name)
            layers[layer.name] = {"weights": layer.weight.numel(), "zeros": int((layer.weight == 0).sum())}
        total = sum(counts["weights"] for counts in layers.values())
        return {
            "kind": "sparsity",
            "target": self.plan.final,
            "actual": sum(counts["zeros"] for counts in layers.values()) / max(1, total),
            "granularity": str(self.plan.granularity),
            "criterion": type(self.plan.criterion).__name__,
            "layers": layers,
        } | notes

    def _notes(self) -> dict[str, Any]:
        """What kept layers from being pruned further, said and for the record."""
        plan = self.plan
        notes: dict[str, Any] = {}
        held = [name for ranking in self._rankings for name in ranking.held(plan.granularity)]
        if held:
            problem = (
                f"max_layer_sparsity, {'automatic' if plan.max_layer_sparsity is None else plan.max_layer_sparsity}"
            )
            _say("%s, kept from being pruned further: %s", problem, _few(held))
            notes["held"] = held
        blind = {layer.name: count for layer in self.layers if (count := layer.unscored(plan.criterion))}
        if blind:
            message = "%s scored some weights not, which are ranked by magnitude among themselves: %s"
            _say(message, type(plan.criterion).__name__, _few(list(blind)))
            notes["unscored"] = blind
        return notes


def _label(module: str, parameter: str) -> str:
    """What a layer is called: its module's name, and with it the parameter's where that is not ``weight``."""
    return module if parameter == "weight" else f"{module}.{parameter}".lstrip(".")


def _say(text: str, *of: str) -> None:
    if is_rank_zero():
        _log.warning(text, *of)


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _magnitude(weight: nn.Parameter) -> Tensor:
    """Of the gradient; zeros where there is none, and where a loss scale overflowed."""
    if weight.grad is None:
        return torch.zeros_like(weight)
    return weight.grad.float().abs().nan_to_num(0.0, 0.0)
