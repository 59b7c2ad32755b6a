"""Hints: the student's features, through a learned map where widths differ, follow the teacher's."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from torch import Tensor, nn
from torch.nn.functional import normalize as unit_length

from distill.core.model_spec import Features, ModelSpec
from distill.core.numerics import at_least_float32
from distill.core.schedules import Schedule
from distill.core.signals import Batch, Needs, Request, Signals
from distill.core.stacks import Stack
from distill.core.utils.errors import UserError, check_choice
from distill.losses.base import DistillationLoss, LossSum, check_stack
from distill.losses.cosine import cosine_distance
from distill.losses.feature_maps import key_of, of_one_size
from distill.losses.features import as_positions, check_same_positions, features_last, position_weights
from distill.losses.layer_map import LayerMap, check_layers, layer_pairs

__all__ = ["FitNetHint", "hint_mse"]


def hint_mse(student_BPF: Tensor, teacher_BPF: Tensor, weights_BP: Tensor, normalize: bool = False) -> Tensor:
    """Sum over positions of weight * mean over features of (student - teacher)^2.

    With ``normalize``, weight * |student / |student| - teacher / |teacher||^2, the *sum* over the features: of unit
    vectors the mean would shrink with the width.

    Args:
        student_BPF: Features ``[B, P, F]``, any float dtype; computed in float32 or better.
        teacher_BPF: Features ``[B, P, F]``; never written to.
        weights_BP: Weights ``[B, P]``, 0 on padding.
        normalize: Whether only directions are compared.

    Returns:
        A scalar in at least float32; 0 with a zero gradient where all weights are 0.

    Reference:
        Romero et al.: FitNets: Hints for Thin Deep Nets, ICLR 2015.
        Sun, Cheng, Gan, Liu: Patient Knowledge Distillation for BERT Model Compression, EMNLP 2019 (normalize).
    """
    student_BPF, teacher_BPF = at_least_float32(student_BPF), at_least_float32(teacher_BPF)
    if normalize:
        student_BPF, teacher_BPF = unit_length(student_BPF, dim=-1), unit_length(teacher_BPF, dim=-1)
    squares = (student_BPF - teacher_BPF).square()
    return (weights_BP * (squares.sum(-1) if normalize else squares.mean(-1))).sum()


class FitNetHint(DistillationLoss):
    """Distance of hidden states or feature maps, averaged over pairs of layers and over a sample's positions.

    A regressor maps each student feature to the teacher's width: one linear map shared by all positions, which on
    feature maps ``[B, C, H, W]`` is a 1x1 convolution. It is trained with the student, saved with the run, and no
    part of the student. Outputs of ``taps`` may be ``[B, F]``, ``[B, T, F]``, ``[B, C, H, W]`` or ``[B, H, W, C]``
    (ConvNeXt, Swin): the features lie where the size is the module's width
    (:func:`~distill.losses.features.features_last`). Maps of different sizes are averaged to the smaller height and
    width, which is said.

    Args:
        layers: Student layer -> teacher layer (0 is the embedding output, -1 the last), for transformers;
            ``uniform`` spreads the student's layers over the teacher's, ``last`` takes the teacher's last ones.
        taps: Student module -> teacher module by name, for any model; instead of ``layers``.
        kind: ``mse`` or ``cosine`` (1 - cos).
        normalize: For ``mse``: compare unit vectors, as patient distillation does.
        regressor: ``auto`` makes one where the widths differ, ``always`` everywhere, ``never`` nowhere.
        stack: Of encoder-decoders, ``encoder`` or ``decoder``: whose layers are compared.
        weight: See :class:`DistillationLoss`.
        name: See :class:`DistillationLoss`.

    Raises:
        UserError: if an argument is out of range, there is no teacher, no such layer or module, or the widths
            differ where no regressor may be made.
    """

    def __init__(
        self,
        layers: LayerMap = "uniform",
        taps: dict[str, str] | None = None,
        kind: Literal["mse", "cosine"] = "mse",
        normalize: bool = False,
        regressor: Literal["auto", "always", "never"] = "auto",
        stack: Stack | None = None,
        weight: float | Schedule = 1.0,
        name: str | None = None,
    ) -> None:
        super().__init__(weight, name)
        self.stack = check_stack(stack)
        check_layers(layers)
        check_choice("kind", kind, ("mse", "cosine"))
        check_choice("regressor", regressor, ("auto", "always", "never"))
        if taps is not None and (not taps or layers != "uniform"):
            raise UserError(
                "must name at least one pair of modules, and stands instead of 'layers'",
                key="taps",
                value=taps,
                hint="drop one of the two",
            )
        if taps is not None and stack is not None:
            raise UserError(
                "is for 'layers', and 'taps' are named", key="stack", value=stack, hint="drop one of the two"
            )
        if normalize and kind == "cosine":
            raise UserError(
                "is for kind: mse; the cosine has no length", key="normalize", value=normalize, hint="drop it"
            )
        self.layers, self.taps, self.kind, self.normalize, self.regressor = layers, taps, kind, normalize, regressor
        self.pairs: list[tuple[int, int]] = []
        self.regressors = nn.ModuleDict()
        self._layouts: dict[str, tuple[Features | None, Features | None]] = {}

    @property
    def needs(self) -> Needs:
        if self.taps is not None:
            return Needs(Request(taps=frozenset(self.taps)), Request(taps=frozenset(self.taps.values())))
        return Needs(
            Request(hidden_states=frozenset(ours for ours, _ in self.pairs)),
            Request(hidden_states=frozenset(theirs for _, theirs in self.pairs)),
        )

    def bind(self, student: ModelSpec, teacher: ModelSpec | None) -> None:
        teacher = self.require_teacher(teacher)
        if self.taps is None:
            self.pairs = layer_pairs(self.layers, student, teacher)
            for ours, theirs in self.pairs:
                self._regress(str(ours), f"{ours}: {theirs}", student, student.hidden_size, teacher.hidden_size)
            return
        for mine, other in self.taps.items():
            layouts = self._layout(student, mine), self._layout(teacher, other)
            self._layouts[mine] = layouts
            if layouts[0] is not None and layouts[1] is not None and self.regressor != "never":
                self._regress(mine, f"{mine}: {other}", student, layouts[0].width, layouts[1].width)

    def _layout(self, model: ModelSpec, name: str) -> Features | None:
        """Where the module has its features; without a regressor that is seen when they are."""
        model.module(name, "taps")
        try:
            return model.features(name, "taps")
        except UserError:
            if self.regressor == "never":
                return None
            raise

    def _regress(self, name: str, pair: str, student: ModelSpec, width: int, teacher_width: int) -> None:
        """Make the regressor of one pair, where one is due and not there yet."""
        if width != teacher_width and self.regressor == "never":
            raise UserError(
                f"the widths of {{{pair}}} are {width} and {teacher_width}",
                key="regressor",
                value=self.regressor,
                hint="set regressor: auto",
            )
        key = key_of(name)
        if key in self.regressors and self.regressors[key].weight.shape == (teacher_width, width):
            return
        if width != teacher_width or self.regressor == "always":
            like = next(student.model.parameters(), None)
            self.regressors[key] = nn.Linear(width, teacher_width, device=None if like is None else like.device)

    def _features(self, student: Signals, teacher: Signals) -> Iterator[tuple[str, Tensor, Tensor]]:
        if self.taps is not None:
            for mine, other in self.taps.items():
                yield mine, student.taps[mine], teacher.taps[other]
        for ours, theirs in self.pairs:
            yield str(ours), student.hidden_states[ours], teacher.hidden_states[theirs]

    def forward(self, student: Signals, teacher: Signals, batch: Batch) -> LossSum:
        totals = [self._distance(*features, batch) for features in self._features(student, teacher)]
        return LossSum(sum(totals[1:], start=totals[0]) / len(totals), batch.count)

    def _distance(self, name: str, ours: Tensor, theirs: Tensor, batch: Batch) -> Tensor:
        mine, other = self._layouts.get(name, (None, None))
        ours, theirs = features_last(ours, mine, name), features_last(theirs, other, name)
        if ours.dim() == theirs.dim() == 4:
            ours, theirs = of_one_size(ours, theirs, name)
        check_same_positions(ours, theirs, "taps")
        student_BPF, teacher_BPF = as_positions(ours), as_positions(theirs)
        if (key := key_of(name)) in self.regressors:
            regressor = self.regressors[key]
            student_BPF = regressor(student_BPF.to(next(regressor.parameters()).dtype))
        if student_BPF.shape != teacher_BPF.shape:
            raise UserError(
                f"the features of {name!r} are {student_BPF.shape[-1]} and {teacher_BPF.shape[-1]} wide",
                key="regressor",
                value=self.regressor,
                hint="set regressor: auto",
            )
        weights_BP = position_weights(batch, student_BPF)
        if self.kind == "cosine":
            return cosine_distance(student_BPF, teacher_BPF, weights_BP)
        return hint_mse(student_BPF, teacher_BPF, weights_BP, self.normalize)
