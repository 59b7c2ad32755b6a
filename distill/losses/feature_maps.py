"""What losses over pairs of feature maps have in common: which maps, where their features are, one size for both."""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Iterator
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d

from distill.core.model_spec import Features, ModelSpec
from distill.core.numerics import at_least_float32
from distill.core.ranks import is_rank_zero
from distill.core.schedules import Schedule
from distill.core.signals import Batch, Needs, Request, Signals
from distill.core.utils.errors import UserError
from distill.losses.base import DistillationLoss, LossSum
from distill.losses.features import check_same_positions, features_last, position_weights

__all__ = ["FeatureMapLoss", "Maps", "PerSampleMapLoss", "key_of", "of_one_size", "place_mean", "pooled_to", "through"]

_log = logging.getLogger(__name__)

_told: set[tuple[str, tuple[int, ...]]] = set()


class Maps(NamedTuple):
    """The maps of one pair of modules, features last.

    Attributes:
        name: The student's module.
        student: ``[B, H, W, F]``.
        teacher: ``[B, H', W', F']``.
        student_valid: Which places of the student's hold a token, boolean ``[B, H, W]``; ``None`` where all count.
        teacher_valid: And of the teacher's, ``[B, H', W']``.
    """

    name: str
    student: Tensor
    teacher: Tensor
    student_valid: Tensor | None = None
    teacher_valid: Tensor | None = None


class FeatureMapLoss(DistillationLoss):
    """A loss over pairs of feature maps (:meth:`maps`).

    Outputs of ``taps`` may be ``[B, C, H, W]``, ``[B, H, W, C]`` (ConvNeXt, Swin) or tokens ``[B, T, F]`` of both: the
    features lie where the size is the module's width (:func:`~distill.losses.features.features_last`).

    Args:
        taps: Student module -> teacher module by name.
        weight: See :class:`DistillationLoss`.
        name: See :class:`DistillationLoss`.
    """

    least: ClassVar[int] = 1
    """Pairs that it needs."""

    flat: ClassVar[bool] = False
    """Whether one vector a sample, ``[B, F]``, will do."""

    def __init__(self, taps: dict[str, str], weight: float | Schedule = 1.0, name: str | None = None) -> None:
        super().__init__(weight, name)
        if len(taps) < self.least:
            several = f"at least {self.least} pairs" if self.least > 1 else "at least one pair"
            hint = "write {student_module: teacher_module}"
            raise UserError(f"must name {several} of modules", key="taps", value=taps, hint=hint)
        self.taps = taps
        self._layouts: dict[str, tuple[Features, Features]] = {}

    @property
    def needs(self) -> Needs:
        return Needs(Request(taps=frozenset(self.taps)), Request(taps=frozenset(self.taps.values())))

    def bind(self, student: ModelSpec, teacher: ModelSpec | None) -> None:
        teacher = self.require_teacher(teacher)
        like = next(student.model.parameters(), None)
        for mine, other in self.taps.items():
            layouts = student.features(mine, "taps"), teacher.features(other, "taps")
            self._layouts[mine] = layouts
            self.make(key_of(mine), layouts[0].width, layouts[1].width, None if like is None else like.device)

    def make(self, key: str, width: int, teacher_width: int, device: torch.device | None) -> None:
        """Make what is trained for a pair, if it is not there yet: part of this module, not of the student.

        Args:
            key: By which a ``ModuleDict`` holds it.
            width: Features of the student's module.
            teacher_width: And of the teacher's.
            device: The student's.
        """

    def maps(self, student: Signals, teacher: Signals, batch: Batch) -> Iterator[Maps]:
        for mine, other in self.taps.items():
            layouts = self._layouts.get(mine, (None, None))
            ours, theirs = student.taps[mine], teacher.taps[other]
            if (ours.dim() == 3) != (theirs.dim() == 3):
                shapes = f"{list(ours.shape)} and {list(theirs.shape)}"
                problem = f"compares maps of one kind, and {{{mine}: {other}}} are {shapes}: one of them tokens"
                raise UserError(problem, key="taps", hint="name a module of each that puts out maps, or tokens")
            pair = zip((ours, theirs), layouts, (mine, other), strict=True)
            made = [_as_map(f, layout, name, self.flat) for f, layout, name in pair]
            valid = [_valid_places(f, one, batch) for f, one in zip((ours, theirs), made, strict=True)]
            # Filled, not multiplied: what a model puts out at padding may be NaN.
            clean = (m if v is None else m.masked_fill(~v[..., None], 0) for m, v in zip(made, valid, strict=True))
            yield Maps(mine, *clean, *valid)


class PerSampleMapLoss(FeatureMapLoss):
    """One whose value is a sum over samples, each with its predictions. A subclass gives :meth:`per_sample`."""

    @abstractmethod
    def per_sample(self, maps: list[Maps]) -> Tensor:
        """The loss of each sample, ``[B]``."""

    def forward(self, student: Signals, teacher: Signals, batch: Batch) -> LossSum:
        losses_B = self.per_sample(list(self.maps(student, teacher, batch)))
        weights_B = position_weights(batch, losses_B[:, None, None])[:, 0]
        return LossSum((losses_B * weights_B).sum(), batch.count)


def _as_map(feature: Tensor, layout: Features | None, name: str, flat: bool) -> Tensor:
    """``[B, H, W, F]`` of such a map, of tokens ``[B, T, F]`` (``[B, T, 1, F]``), or of vectors ``[B, F]``."""
    feature = features_last(at_least_float32(feature), layout, name)
    if feature.dim() == 4:
        return feature
    if feature.dim() == 2 and flat:
        return feature[:, None, None]
    if feature.dim() != 3:
        problem = f"a feature map has a height and a width, and this output is {list(feature.shape)}"
        raise UserError(problem, key="taps", value=name, hint="name a module before the pooling or flattening")
    return feature[:, :, None]


def _valid_places(feature: Tensor, map_BHWF: Tensor, batch: Batch) -> Tensor | None:
    """Which places are no padding, ``[B, T, 1]`` of the batch's tokens; ``None`` of anything else."""
    over_tokens = feature.dim() == 3 and batch.tokens is not None and batch.tokens.shape == map_BHWF.shape[:2]
    return batch.tokens[:, :, None] if batch.tokens is not None and over_tokens else None


def place_mean(map_BHWF: Tensor, valid_BHW: Tensor | None) -> Tensor:
    """The mean of each feature over the places that count, ``[B, F]``; 0 where none does."""
    if valid_BHW is None:
        return map_BHWF.mean((1, 2))
    weights_BHW = valid_BHW / valid_BHW.sum((1, 2), keepdim=True).clamp(min=1)
    return (map_BHWF * weights_BHW[..., None]).sum((1, 2))


def of_one_size(student: Tensor, teacher: Tensor, name: str) -> tuple[Tensor, Tensor]:
    """Both maps ``[B, H, W, F]`` of the smaller height and the smaller width: means over what falls together.

    Raises:
        UserError: of tokens (``W`` = 1) of which there are not as many.
    """
    if student.shape[1:3] == teacher.shape[1:3]:
        return student, teacher
    if student.shape[2] == teacher.shape[2] == 1:
        check_same_positions(student[:, :, 0], teacher[:, :, 0], "taps")
    size = min(student.shape[1], teacher.shape[1]), min(student.shape[2], teacher.shape[2])
    shapes = (*student.shape[1:3], *teacher.shape[1:3])
    if (name, shapes) not in _told and is_rank_zero():
        _told.add((name, shapes))
        said = "the maps of %s are %d x %d and the teacher's %d x %d: both are averaged to %d x %d"
        _log.warning(said, name, *shapes, *size)
    return pooled_to(student, size), pooled_to(teacher, size)


def pooled_to(map_BHWF: Tensor, size: tuple[int, int]) -> Tensor:
    """The map at this height and width, each place the mean of what falls on it."""
    if map_BHWF.shape[1:3] == size:
        return map_BHWF
    return adaptive_avg_pool2d(map_BHWF.movedim(-1, 1), size).movedim(1, -1)


def through(head: nn.Module, features: Tensor) -> Tensor:
    """What a trained head makes of features, computed in the dtype of its parameters, in float32 or better."""
    return at_least_float32(head(features.to(next(head.parameters()).dtype)))


def key_of(name: str) -> str:
    """A module's name as a key of a ``ModuleDict``, which may hold no dot."""
    return name.replace(".", "/")
