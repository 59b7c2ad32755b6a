"""The names and numbers of layers that losses and compressions are given, judged on models without weights.

Reading the data and the weights takes minutes; a name that no layer has shows before. What models without weights
cannot tell is judged where losses and compressions meet the models themselves.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from copy import deepcopy
from typing import Any

import torch
from pytorch_lightning import Callback
from torch import nn

from distill.compression.base import Compression
from distill.core.model_spec import ModelSpec
from distill.core.signals import Needs, Request
from distill.core.utils.errors import UserError
from distill.losses import DistillationLoss
from distill.models.outline import configuration_at, without_weights

__all__ = ["check_names", "name_layers", "outline_of_teacher"]

_NAMES = frozenset({"layers", "taps", "student_layer", "teacher_layer", "include", "exclude"})
"""Arguments of losses that name layers. Of the rest, widths and kinds of attention, models without weights say less."""

_KNOWN = ("distill.", "pytorch_lightning.")
"""Whose losses and callbacks do nothing to a model but what is known here."""


def name_layers(losses: Sequence[DistillationLoss], callbacks: Sequence[Callback]) -> bool:
    """Whether one of these may name layers of a model."""
    return any(True for _ in _naming(losses)) or any(True for _ in _judged(callbacks))


def check_names(
    student: nn.Module, teacher: ModelSpec | None, losses: Sequence[DistillationLoss], callbacks: Sequence[Callback]
) -> None:
    """Refuse names and numbers of layers that the models do not have.

    Args:
        student: Without weights, before anything is done to it.
        teacher: Without weights; ``None`` leaves what names its layers to be judged later.
        losses: Those of the configuration; they are not bound by this.
        callbacks: Likewise. What stands behind a callback that may change the student's structure is judged later.

    Raises:
        UserError: as :meth:`~distill.losses.DistillationLoss.bind`, and as a compression's ``prepare``.
    """
    ours = ModelSpec(student, "model.student")
    for index, loss in _naming(losses):
        error = _refusal(loss, ours, teacher)
        if error is not None and error.key.split(".")[0] in _NAMES:
            raise error.within(f"model.losses.{index}")
    for compression in _judged(callbacks):
        compression.check_names(student)


def outline_of_teacher(written: Any, auto_model: Any) -> ModelSpec | None:
    """A single live teacher without its weights; ``None`` where that cannot be told.

    Args:
        written: What the configuration has under ``model.teacher``.
        auto_model: The ``AutoModelFor...`` class of the task.
    """
    listed = isinstance(written, list)
    one, key = (written[0], "model.teacher.0") if listed and len(written) == 1 else (written, "model.teacher")
    settings = {"path": one} if isinstance(one, str) else one
    if not isinstance(settings, Mapping) or not isinstance(settings.get("path"), str) or settings.get("recorded"):
        return None
    config = configuration_at(settings["path"], key)
    attention = settings.get("attn_implementation")
    model = None if config is None else without_weights(auto_model, config, attention)
    return None if model is None else ModelSpec(model, key)


def _naming(losses: Sequence[DistillationLoss]) -> Iterator[tuple[int, DistillationLoss]]:
    """Losses of this package that read more than logits, each with its place."""
    logits = (Needs(Request(logits=True)), Needs(Request(logits=True), Request(logits=True)))
    for index, loss in enumerate(losses):
        if type(loss).__module__.startswith("distill.") and loss.needs not in logits:
            yield index, loss


def _judged(callbacks: Sequence[Callback]) -> Iterator[Compression]:
    """The compressions that meet the student with the structure that it is made with."""
    for callback in callbacks:
        if not type(callback).__module__.startswith(_KNOWN):
            return
        if isinstance(callback, Compression):
            yield callback
            if not callback.order:
                return


def _refusal(loss: DistillationLoss, student: ModelSpec, teacher: ModelSpec | None) -> UserError | None:
    """What ``loss`` refuses of the models; a copy is asked, whose parameters cost nothing."""
    with suppress(Exception):  # what fails for want of weights is told when they are there
        asked = deepcopy(loss)
        try:
            with torch.device("meta"):
                asked.bind(student.of(asked.stack), teacher.of(asked.stack) if teacher else None)
        except UserError as error:
            return error
    return None
