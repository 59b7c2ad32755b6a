"""A teacher that reads other tokens than the student, told more or by its own tokenizer, at the student's positions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from distill.core.padding import pad
from distill.core.signals import IGNORE, TEACHER_AT, TEACHER_PATH, Batch, Request, Signals
from distill.core.task import Task
from distill.core.teacher_inputs import teacher_inputs
from distill.core.utils.errors import UserError

__all__ = ["for_teacher", "teach"]

_FILLS = {TEACHER_AT: -1, TEACHER_PATH: 0, "teacher_labels": IGNORE, "teacher_bytes": 0, "teacher_position_ids": 0}


def for_teacher(features: Sequence[dict[str, Any]], padding: int) -> dict[str, Tensor]:
    """What a batch holds for a teacher that reads other inputs: they, and where it predicts each position that counts.

    Args:
        features: Samples with ``teacher_input_ids`` and ``teacher_at``, or without.
        padding: Id of the padding.
    """
    if TEACHER_AT not in features[0]:
        return {}
    fills = {"teacher_input_ids": padding, **_FILLS}
    found = {name: pad(features, name, fill) for name, fill in fills.items() if name in features[0]}
    if "teacher_position_ids" in found:  # as of the student, no mask is given beside them
        return found
    lengths = np.array([len(sample["teacher_input_ids"]) for sample in features])
    real = np.arange(found["teacher_input_ids"].shape[1]) < lengths[:, None]
    return found | {"teacher_attention_mask": torch.from_numpy(real).long()}


def teach(task: Task, model: nn.Module, batch: Batch, request: Request) -> Signals:
    """A teacher's pass over its own inputs, where ``batch`` holds such, with its signals at the student's positions.

    Positions that have none there have those of the teacher's first one, which nothing reads.

    Raises:
        UserError: if signals are asked for that have no place at the student's positions.
    """
    at = batch.extras.get(TEACHER_AT)
    if at is None:
        return task.forward(model, batch, request)
    if replace(request, logits=False, lazy=False):  # of tokens that do not count there would be none to compare
        problem = "the teacher reads other texts than the student, so losses can compare the logits of answers alone"
        raise UserError(problem, key="data.teacher_system", hint="leave out losses on layers, or this setting")
    signals = task.forward(model, replace(batch, inputs=teacher_inputs(batch), tokens=None), request)
    return _moved(signals, at.clamp(min=0))


def _moved(signals: Signals, at: Tensor) -> Signals:
    def move(x: Tensor) -> Tensor:
        return x.gather(1, at[..., None].expand(*at.shape, x.shape[-1]))

    lazy = signals.lazy_logits
    return Signals(
        logits=None if signals.logits is None else move(signals.logits),
        lazy_logits=None if lazy is None else replace(lazy, hidden=move(lazy.hidden)),
    )
