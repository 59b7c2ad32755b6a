"""What is to be removed of a student: prepared, switched off part by part, taken out."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from distill.compression.pruning.unit_choice import count_at
from distill.compression.structure import importance
from distill.compression.structure.activations import ActivationSums
from distill.compression.structure.fractions import Scope, gone, refuse_none, rounded
from distill.compression.structure.grouped_scales import refuse_cut_groups
from distill.compression.structure.low_rank import LowRankLinear
from distill.compression.structure.masking import LayerSwitch, factors
from distill.compression.structure.norms import mask_norm, refuse_norm, unmask_norm
from distill.compression.structure.parts import Parts
from distill.compression.structure.removal import keep_units, remove_layers
from distill.compression.structure.units import UNIT_KINDS, UnitKind, Units, heads_in_group, layer_modules
from distill.core.internals.torch import own_buffers, own_parameters
from distill.core.module_selection import LINEAR, refuse_rewritten
from distill.core.ranks import is_rank_zero
from distill.core.record import steps_of, structural
from distill.core.utils.errors import UserError

__all__ = ["Criterion", "RemovalPlan"]

_log = logging.getLogger(__name__)

Criterion = Literal["magnitude", "taylor", "activation"]


@dataclass(frozen=True)
class RemovalPlan:
    """What is to be removed, and by which criterion. All that changes is in buffers of the student.

    Attributes:
        heads: Part of the attention heads, in [0, 1).
        neurons: Part of the feed-forward neurons, in [0, 1).
        hidden: Part of the coordinates of the residual stream, in [0, 1).
        layers: How many layers, or which; 1 is the first.
        criterion: What makes a unit important.
        scope: Among which units the least important are chosen.
        key: Where all this stands, for error messages.
    """

    heads: float
    neurons: float
    hidden: float
    layers: int | list[int]
    criterion: Criterion
    scope: Scope
    key: str

    @property
    def fractions(self) -> dict[UnitKind, float]:
        """How much of which kind is removed, of those of which something is."""
        asked: dict[UnitKind, float] = {"heads": self.heads, "neurons": self.neurons, "hidden": self.hidden}
        return {kind: fraction for kind, fraction in asked.items() if fraction}

    @property
    def layer_count(self) -> int:
        """How many layers are removed."""
        return len(self.layers) if isinstance(self.layers, list) else self.layers

    @property
    def ready(self) -> bool:
        """Whether it is known what can be removed: of transformers it always is."""
        return True

    def parts(self, student: nn.Module) -> Parts:
        """What the plan is about, found in a student."""
        return Parts(student, self.key, hidden=bool(self.hidden))

    def _removed(self, kind: UnitKind, parts: Parts) -> list[int]:
        """How many units go in the end: of each layer, or of all together."""
        return gone(self.fractions[kind], parts.counts(kind), self.scope)

    # ------------------------------------------------------------------ before the training

    def check(self, student: nn.Module) -> None:
        """Refuse an architecture that is not known, parts that are no unit at all, and layers that it does not have.

        Args:
            student: Left as it is; its weights may be on the meta device, and it may be wider than what is trained:
                what is no unit of many is none of fewer.

        Raises:
            UserError: saying what is known, and how many units or which layers there are.
        """
        parts = self.parts(student)
        self._check_fractions(parts)
        for norm in parts.norms:
            refuse_norm(norm, f"{self.key}.hidden")
        if self.layers:
            self._check_layers(parts)

    def prepare(self, student: nn.Module) -> list[RemovableHandle]:
        """Give the student its masks, all true, and the switches of its layers.

        Raises:
            UserError: if the student's architecture is not known, or has not so much to remove.
        """
        parts = self.parts(student)
        self._refuse_rewritten(parts)
        self._check_fractions(parts)
        for kind in self.fractions:
            self._tell_rounded(kind, parts)
            for units in parts.units[kind]:
                self._add_buffers(student.get_submodule(units.owner), UNIT_KINDS[kind], units.count)
        for norm in parts.norms:
            mask_norm(norm, f"{self.key}.hidden")
        self._tell_frozen(parts)
        if not self.layers:
            return []
        self._check_layers(parts)
        self._add_buffers(parts.layers, "layer", len(parts.layers))
        # In front of the hooks by which transformers keeps hidden states: what they keep is what the next layer sees.
        return [
            layer.register_forward_hook(LayerSwitch(parts.layers, index), prepend=True)
            for index, layer in enumerate(parts.layers)
        ]

    def _check_fractions(self, parts: Parts) -> None:
        for kind, fraction in self.fractions.items():
            counts, each = parts.counts(kind), parts.each(kind)
            hint = "remove more, or leave it out"
            refuse_none(fraction, counts, self.scope, f"{self.key}.{kind}", each=each, hint=hint)

    def _tell_rounded(self, kind: UnitKind, parts: Parts) -> None:
        fraction = self.fractions[kind]
        said = rounded(fraction, parts.counts(kind), self.scope, parts.each(kind))
        if said and is_rank_zero():
            _log.warning("%s.%s = %g: %s of the %s go", self.key, kind, fraction, said, kind)

    def _refuse_rewritten(self, parts: Parts) -> None:
        """Refuse maps that lose units, and whose weights others write: they are under no name that units have."""
        cut = [parts.student] if self.hidden else [*parts.layers] if self.fractions else []
        within = {
            id(module) for part in cut for module in part.modules() if isinstance(module, (*LINEAR, nn.Embedding))
        }
        named = {name: module for name, module in parts.student.named_modules() if id(module) in within}
        bare = {name: module for name, module in named.items() if "weight" not in own_parameters(module)}
        refuse_rewritten(bare, self.key, excludes=False)

    def _tell_frozen(self, parts: Parts) -> None:
        frozen = [
            units.owner
            for kind in (self.fractions or UNIT_KINDS if self.criterion == "taylor" else ())
            for units in parts.units.get(kind, ())
            if not any(parts.weights[part.parameter].requires_grad for part in units.slices)
        ]
        if frozen and is_rank_zero():
            names = ", ".join(dict.fromkeys(frozen))
            _log.warning("frozen, so without gradients for taylor, and ranked by magnitude: %s", names)

    def _check_layers(self, parts: Parts) -> None:
        key, depth = f"{self.key}.layers", len(parts.layers)
        numbers = self.layers if isinstance(self.layers, list) else list(range(1, self.layers + 1))
        known = set(numbers) <= set(range(1, depth + 1)) and len(set(numbers)) == len(numbers)
        if not known or not 0 < len(numbers) < depth:
            problem = f"the student has layers 1 to {depth}, and one must stay"
            hint = f"give how many of them, or different numbers, fewer than {depth}"
            raise UserError(problem, key=key, value=self.layers, hint=hint)
        student = parts.student
        shared = len(parts.units["neurons"]) < depth
        if shared or structural(steps_of(student)) or any(isinstance(m, LowRankLinear) for m in student.modules()):
            problem = "layers are removed of a student that was not made smaller in other ways before"
            hint = "remove layers in a first run, alone or with heads and neurons"
            raise UserError(problem, key=key, value=self.layers, hint=hint)

    def _add_buffers(self, module: nn.Module, unit: str, count: int) -> None:
        device = next(module.parameters()).device
        if f"{unit}_mask" not in own_buffers(module):
            module.register_buffer(f"{unit}_mask", torch.ones(count, dtype=torch.bool, device=device))
        if self.criterion != "magnitude" and f"{unit}_importance" not in own_buffers(module):
            module.register_buffer(f"{unit}_importance", torch.zeros(count, device=device))

    def masked(self, student: nn.Module) -> list[str]:
        """Names of the parameters of which a part is to be removed, or which may be removed with their layer."""
        parts = self.parts(student)
        found = [part.parameter for kind in self.fractions for units in parts.units[kind] for part in units.slices]
        prefix, _ = layer_modules(student, self.key)
        numbers = range(1, len(parts.layers) + 1) if isinstance(self.layers, int) else self.layers
        gone = tuple(f"{prefix}.{number - 1}." for number in numbers if self.layers)
        return list(dict.fromkeys([*found, *(name for name in parts.weights if name.startswith(gone))]))

    # ------------------------------------------------------------------ in training

    def watch(self, parts: Parts, activations: ActivationSums) -> None:
        """Have the activations summed that the criterion ``activation`` reads."""
        for kind in self.fractions:
            for units in parts.units[kind]:
                readers = [parts.weights[part.parameter] for part in units.readers]
                for module in parts.student.modules():  # several layers may share one
                    if any(own_parameters(module).get("weight") is weight for weight in readers):
                        activations.watch_input(f"{units.owner}.{kind}", module)
        if self.layers:
            for index, layer in enumerate(parts.layers):
                activations.watch_change(str(index), layer)

    def check_quantized(self, parts: Parts) -> None:
        """As :func:`refuse_cut_groups`."""
        for kind, fraction in self.fractions.items():
            refuse_cut_groups(parts.student, parts.units[kind], self.key, fraction)

    def measure(self, parts: Parts, sums: Mapping[str, Tensor]) -> None:
        """Take one step's gradients, or activations, into the moving averages of importance."""
        for kind in self.fractions:
            if self.criterion == "taylor":
                scores = [importance.taylor(units, parts.weights) for units in parts.units[kind]]
            else:
                norms = {units.owner: sums[f"{units.owner}.{kind}"] for units in parts.units[kind]}
                scores = [importance.output_norm(u, parts.weights, norms[u.owner]) for u in parts.units[kind]]
            _remember([parts.measured(units) for units in parts.units[kind]], scores)
        if self.layers:
            if self.criterion == "taylor":
                values = [importance.layer_taylor(layer, parts.weights) for layer in parts.by_layer]
            else:
                values = [importance.layer_change(sums[str(index)]) for index in range(len(parts.layers))]
            _remember([parts.layers.get_buffer("layer_importance")], [torch.stack(values)])

    def switch_off(self, parts: Parts, progress: float) -> None:
        """Bring the masks to where ``progress``, in [0, 1], of all that is to be removed is gone."""
        for kind in self.fractions:
            found = parts.units[kind]
            masks = [parts.mask(units) for units in found]
            scores = [self._importance(parts, units) for units in found]
            counts = [count_at(progress, count) for count in self._removed(kind, parts)]
            if self.scope == "global":
                kept: Sequence[Tensor] = importance.choose_globally(scores, masks, counts[0])
            else:
                kept = [importance.choose(*of) for of in zip(scores, masks, counts, strict=True)]
            for mask, stay in zip(masks, kept, strict=True):
                mask.copy_(stay)
        for norm in parts.norms:
            norm.get_buffer("hidden_mask").copy_(parts.mask(parts.units["hidden"][0]))
        if self.layers:
            mask = parts.layers.get_buffer("layer_mask")
            mask.copy_(importance.choose(self._layer_importance(parts), mask, count_at(progress, self.layer_count)))

    def _importance(self, parts: Parts, units: Units) -> Tensor:
        """By magnitude too where nothing was measured, as of frozen layers: as zeros these would go first."""
        if self.criterion != "magnitude" and (measured := parts.measured(units)).any():
            return measured
        return importance.magnitude(units, parts.weights)

    def _layer_importance(self, parts: Parts) -> Tensor:
        scores = torch.stack([importance.layer_magnitude(layer, parts.weights) for layer in parts.by_layer])
        if self.criterion != "magnitude":
            measured = parts.layers.get_buffer("layer_importance")
            scores = measured.where(measured > 0, measured.max() + scores)  # of what was not measured, only at last
        if isinstance(self.layers, list):
            listed = [index + 1 in self.layers for index in range(len(parts.layers))]
            scores = scores.masked_fill(~torch.tensor(listed, device=scores.device), torch.inf)
        return scores

    def factors(self, parts: Parts) -> list[tuple[nn.Parameter, Tensor]]:
        """By what parameters are to be multiplied, so that what the masks say is gone is zero."""
        found = [units for kind in self.fractions for units in parts.units[kind]]
        pairs = [pair for units in found for pair in factors(units, parts.mask(units), parts.weights)]
        return [(parts.weights[name], factor) for name, factor in pairs]

    # ------------------------------------------------------------------ after it

    def finish(self, student: nn.Module) -> list[dict[str, Any]]:
        """Take out what the masks say is gone, and the masks; the steps of ``compression.json``."""
        parts = self.parts(student)
        steps: list[dict[str, Any]] = []
        kept = {
            kind: {units.layer: parts.mask(units).nonzero().flatten().tolist() for units in parts.units[kind]}
            for kind in self.fractions
        }
        if self.layers:
            numbers = [index + 1 for index in parts.layers.get_buffer("layer_mask").nonzero().flatten().tolist()]
            steps.append({"kind": "layers", "kept": numbers, "of": len(parts.layers)})
            place = {number: i for i, number in enumerate(numbers, 1)} | {0: 0}
            kept = {kind: {place[n]: stay for n, stay in of.items() if n in place} for kind, of in kept.items()}
            remove_layers(student, numbers, self.key)
        for norm in parts.norms:
            unmask_norm(norm)
        for module in (student, parts.layers, *parts.layers):
            for unit in ("layer", *UNIT_KINDS.values()):
                own_buffers(module).pop(f"{unit}_mask", None)
                own_buffers(module).pop(f"{unit}_importance", None)
        for kind, stay in kept.items():
            keep_units(student, kind, stay, self.key)
        if kept:
            removed: dict[str, Any] = {
                kind: {str(layer): stay for layer, stay in of.items()} for kind, of in kept.items()
            }
            if "heads" in kept and (group := heads_in_group(student)) > 1:
                removed["heads_in_group"] = group
            steps.append({"kind": "remove", **removed})
        return steps


def _remember(averages: Sequence[Tensor], scores: Sequence[Tensor]) -> None:
    for average, value in zip(averages, importance.remembered(averages, scores), strict=True):
        average.copy_(value)
