"""What of a student is pruned, and how; :mod:`~distill.compression.pruning.masks` is what comes of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import nn

from distill.compression.pruning.criteria import Criterion
from distill.compression.pruning.granularity import Granularity
from distill.compression.pruning.masks import Masks, few, say
from distill.compression.pruning.rankings import Layer
from distill.compression.pruning.schedule import check_sparsity
from distill.compression.pruning.weights import check_written, weights_of
from distill.core.internals.torch import own_parameters
from distill.core.module_selection import CHOOSE, check_overrides, check_pattern, override, select
from distill.core.utils.errors import UserError

__all__ = ["MaskingPlan"]


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
        layers, names = self.choose(student, key)
        own = self._own(names, f"{key}.overrides")
        pruned = [layer for layer in layers if own.get(layer.name) != 0]
        if not pruned:
            problem, hint = "leave no layer to prune", "give one of them a sparsity above 0"
            raise UserError(problem, key=f"{key}.overrides", value=self.overrides, hint=hint)
        pruned = self._with_scores(pruned, key)
        try:
            return Masks(self, pruned, own)
        except UserError as error:
            raise error.within(key) from None

    def choose(self, student: nn.Module, key: str) -> tuple[list[Layer], dict[str, Layer]]:
        """The layers whose names and kinds are asked for, and each by all of its names; no weight is read.

        Args:
            student: Left as it is; its weights may be on the meta device.
            key: Where the settings stand in the configuration.

        Raises:
            UserError: if a pattern has no effect, or somebody else writes a weight.
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
        return list(layers.values()), names

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
                say(f"not pruned, for {name} reads {lack.split(',')[0]}, and they have none: %s", few(left))
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


def _label(module: str, parameter: str) -> str:
    """What a layer is called: its module's name, and with it the parameter's where that is not ``weight``."""
    return module if parameter == "weight" else f"{module}.{parameter}".lstrip(".")
