"""Channels of a net that are to be removed: prepared, found on the first batch, switched off, taken out."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from distill.compression.pruning.unit_choice import count_at
from distill.compression.structure import importance
from distill.compression.structure.activations import ActivationSums
from distill.compression.structure.channels import MAPS, Run, find_channels, multiplications
from distill.compression.structure.fractions import Scope, gone, refuse_none
from distill.compression.structure.grouped_scales import refuse_cut_groups
from distill.compression.structure.masking import factors
from distill.compression.structure.removal import remove_units
from distill.compression.structure.removal_plan import Criterion
from distill.compression.structure.units import UnitKind, Units
from distill.core.internals.torch import own_buffers
from distill.core.module_selection import refuse_rewritten, select
from distill.core.orientation import output_axis
from distill.core.ranks import is_rank_zero
from distill.core.utils.errors import UserError

__all__ = ["CHANNEL_MASK", "ChannelPlan"]

_log = logging.getLogger(__name__)

CHANNEL_MASK, _IMPORTANCE = "channel_mask", "channel_importance"
"""Buffers of a map, one value an output."""


@dataclass
class ChannelPlan:
    """Which part of a net's channels is removed, and by which criterion.

    Masks and importances are buffers of the maps that make the channels, which a net has from the beginning; which
    channels hang together is found on the first batch, the same on every rank and after every resume.

    Attributes:
        fraction: Part of the channels of every group, in (0, 1), or of all together where the scope is global.
        criterion: ``magnitude`` or ``taylor``.
        scope: Among which channels the least important are chosen.
        key: Where the settings stand in the configuration.
    """

    fraction: float
    criterion: Criterion
    scope: Scope
    key: str
    _units: tuple[Units, ...] | None = field(default=None, init=False)
    _run: Run | None = field(default=None, init=False)

    layers: ClassVar[int] = 0
    layer_count: ClassVar[int] = 0

    @property
    def fractions(self) -> dict[UnitKind, float]:
        """How much of which kind is removed."""
        return {"channels": self.fraction}

    def parts(self, student: nn.Module) -> nn.Module:
        """What is read and changed in training: the student itself."""
        return student

    def check(self, student: nn.Module) -> dict[str, nn.Module]:
        """The maps that may lose outputs, by name; their weights may be on the meta device.

        Raises:
            UserError: if there is none.
        """
        return select(student, MAPS, None, (), key=f"{self.key}.channels")

    def prepare(self, student: nn.Module) -> list[RemovableHandle]:
        """Give every map that may lose outputs its buffers.

        Raises:
            UserError: if there is none.
        """
        maps = self.check(student)
        refuse_rewritten(maps, self.key, excludes=False)
        for module in maps.values():
            weight = module.get_parameter("weight")
            count = weight.shape[output_axis(module)] * (getattr(module, "groups", 1) if output_axis(module) else 1)
            for name, value in ((CHANNEL_MASK, torch.ones(count, dtype=torch.bool)), (_IMPORTANCE, torch.zeros(count))):
                if name not in own_buffers(module) and (name == CHANNEL_MASK or self.criterion != "magnitude"):
                    module.register_buffer(name, value.to(weight.device))
        self._units = self._run = None
        return []

    @property
    def ready(self) -> bool:
        """Whether it is known which channels hang together."""
        return self._units is not None

    def find(self, student: nn.Module, run: Run) -> None:
        """Find out which channels hang together, and refuse a net of which none can be removed.

        Args:
            student: Not changed.
            run: A pass of a copy of it.

        Raises:
            UserError: naming what keeps them.
        """
        channels = find_channels(student, run)
        able = _agreed([one.layer for one in channels.units])
        units = tuple(one for one in channels.units if one.layer in able)
        kept = [*channels.fixed, *(f"the code around {owner}" for owner in dict.fromkeys(channels.untried))]
        named = ", ".join(kept[:4]) + (f" and {len(kept) - 4} more" if len(kept) > 4 else "")
        if not units:
            problem = f"no channel can be removed: {named or 'every one is read by what gives the answer'}"
            hint = "take a net of convolutions, norms over batches, and linear maps"
            raise UserError(problem, key=f"{self.key}.channels", value=self.fraction, hint=hint)
        counts = [one.count for one in units]
        refuse_none(self.fraction, counts, self.scope, f"{self.key}.channels", hint="remove more")
        if kept and is_rank_zero():
            _log.warning("%s.channels: what these read keeps all of its channels: %s", self.key, named)
        refuse_cut_groups(student, units, self.key, self.fraction)
        self._units, self._run = units, run

    def _removed(self, units: tuple[Units, ...]) -> list[int]:
        """How many channels go in the end: of each group, or of all together."""
        return gone(self.fraction, [one.count for one in units], self.scope)

    def masked(self, student: nn.Module) -> list[str]:
        """Names of the parameters that lose channels; before the first batch those of all maps."""
        if self._units is not None:
            return list(dict.fromkeys(part.parameter for one in self._units for part in one.slices))
        maps = select(student, MAPS, None, (), key=f"{self.key}.channels")
        return [f"{name}.{own}" for name, module in maps.items() for own, _ in module.named_parameters(recurse=False)]

    # ------------------------------------------------------------------ in training

    def check_quantized(self, student: nn.Module) -> None:
        """Nothing yet: :meth:`find` does."""

    def watch(self, student: nn.Module, activations: ActivationSums) -> None:
        """Nothing: no criterion of channels reads activations."""

    def measure(self, student: nn.Module, sums: Mapping[str, Tensor]) -> None:
        """Take one step's gradients into the moving averages of importance."""
        assert self._units is not None
        weights = dict(student.named_parameters())
        scores = [importance.taylor(one, weights) for one in self._units]
        before = [_read(student, one, _IMPORTANCE) for one in self._units]
        for one, value in zip(self._units, importance.remembered(before, scores), strict=True):
            _write(student, one, _IMPORTANCE, value)

    def switch_off(self, student: nn.Module, progress: float) -> None:
        """Bring the masks to where ``progress``, in [0, 1], of all that is to be removed is gone."""
        assert self._units is not None
        weights = dict(student.named_parameters())
        masks = [_read(student, one, CHANNEL_MASK) for one in self._units]
        scores = [self._importance(student, one, weights) for one in self._units]
        counts = [count_at(progress, count) for count in self._removed(self._units)]
        if self.scope == "global":
            kept = importance.choose_globally(scores, masks, counts[0])
        else:
            kept = [importance.choose(*of) for of in zip(scores, masks, counts, strict=True)]
        for one, stay in zip(self._units, kept, strict=True):
            _write(student, one, CHANNEL_MASK, stay)

    def _importance(self, student: nn.Module, one: Units, weights: Mapping[str, Tensor]) -> Tensor:
        if self.criterion != "magnitude" and (measured := _read(student, one, _IMPORTANCE)).any():
            return measured
        return importance.magnitude(one, weights)

    def factors(self, student: nn.Module) -> list[tuple[nn.Parameter, Tensor]]:
        """By what parameters are to be multiplied, so that what the masks say is gone is zero."""
        weights = dict(student.named_parameters())
        found = [pair for one in self._units or () for pair in factors(one, _read(student, one, CHANNEL_MASK), weights)]
        return [(weights[name], factor) for name, factor in found]

    # ------------------------------------------------------------------ after it

    def finish(self, student: nn.Module) -> list[dict[str, Any]]:
        """Take out what the masks say is gone, and the masks; the step of ``compression.json``.

        Raises:
            UserError: if no batch has shown yet what hangs together.
        """
        if self._units is None or self._run is None:
            problem = "which channels hang together is found on the first batch, and there was none"
            raise UserError(problem, key=f"{self.key}.channels", hint="train, or validate, before it is finished")
        stay = [_read(student, one, CHANNEL_MASK) for one in self._units]
        before = multiplications(student, self._run)
        kept: dict[str, list[int]] = {}
        for one, mask in zip(self._units, stay, strict=True):
            count = len(student.get_submodule(one.owner).get_buffer(CHANNEL_MASK))
            lost = set(_outputs(student, one)[~mask].flatten().tolist())
            kept[one.owner] = [place for place in kept.get(one.owner, range(count)) if place not in lost]
        for module in student.modules():
            for name in (CHANNEL_MASK, _IMPORTANCE):
                own_buffers(module).pop(name, None)
        tensors = {part.parameter for one in self._units for part in (*one.slices, *one.buffers)}
        remove_units(student, list(zip(self._units, stay, strict=True)))
        named: dict[str, Tensor] = {**dict(student.named_parameters()), **dict(student.named_buffers())}
        shapes = {name: list(tensor.shape) for name, tensor in named.items() if name in tensors}
        counts = {"before": before, "after": multiplications(student, self._run)}
        return [{"kind": "remove", "channels": kept, "shapes": shapes, "multiplications": counts}]


def _outputs(student: nn.Module, one: Units) -> Tensor:
    """The outputs of the owner that belong to each unit: ``[units, outputs of a unit]``."""
    module = student.get_submodule(one.owner)
    made = [part for part in one.slices if part.parameter == f"{one.owner}.weight" and part.axis == output_axis(module)]
    return made[0].features


def _read(student: nn.Module, one: Units, buffer: str) -> Tensor:
    return student.get_submodule(one.owner).get_buffer(buffer)[_outputs(student, one)[:, 0]]


def _write(student: nn.Module, one: Units, buffer: str, values: Tensor) -> None:
    held = student.get_submodule(one.owner).get_buffer(buffer)
    outputs = _outputs(student, one)
    held[outputs] = values[:, None].expand(outputs.shape).to(held.dtype)


def _agreed(found: list[int]) -> set[int]:
    """Those that all ranks have found: a trial's last bits may differ from machine to machine."""
    if not torch.distributed.is_initialized():
        return set(found)
    those: list[list[int]] = [[]] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(those, found)
    return set.intersection(*map(set, those))
