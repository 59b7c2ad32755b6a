"""The objective of a batch, and whether the logits it is computed of are there as a whole."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from distill.core.lazy_head import why_not_lazy, within_taps
from distill.core.signals import Batch, Request, Signals
from distill.core.task import Task, TokenTask
from distill.losses import DistillationLoss
from distill.losses.base import is_row_wise, of_rows_alone
from distill.losses.contract import term
from distill.losses.head_terms import head_terms
from distill.models.tokens import embedding_rows

__all__ = ["lazily", "objective", "why_whole"]

_LARGE = 8192
"""Vocabularies from which on it pays: below, the logits are no larger than what else a model computes of a token."""


def why_whole(task: Task, losses: Sequence[DistillationLoss], student: nn.Module) -> str:
    """Why the student's logits are computed as a whole, in words; nothing where they are not."""
    if not isinstance(task, TokenTask) or type(task).forward is not Task.forward:
        return f"{task.name} predicts no tokens"
    size = embedding_rows(student)
    if size is not None and size < _LARGE:
        return f"the vocabulary is small ({size})"
    reading = [loss for loss in losses if loss.needs.student.logits or loss.needs.teacher.logits]
    if more := [loss.name for loss in reading if not of_rows_alone(loss)]:
        return f"{', '.join(more)} reads more than logits, or has parameters of its own"
    if others := [loss.name for loss in reading if not is_row_wise(loss)]:
        return f"{', '.join(others)} may read all positions together (row_wise is not set)"
    return why_not_lazy(student) or _tapped(losses, student)


def _tapped(losses: Sequence[DistillationLoss], student: nn.Module) -> str:
    """Why the head must compute: a loss reads what it gives by the name of a module."""
    readers = [loss.name for loss in losses if within_taps(student, loss.needs.student.taps)]
    return f"{', '.join(readers)} taps the head" if readers else ""


def lazily(request: Request) -> Request:
    """The same, of logits that may be lazy."""
    return replace(request, lazy=request.logits)


def objective(
    losses: Sequence[DistillationLoss], student: Signals, teacher: Signals, batch: Batch
) -> tuple[Tensor, dict[str, Tensor]]:
    """The weighted losses summed over the batch's valid positions, and the raw mean of each by name.

    Args:
        losses: Each weighs as its schedule says at ``batch.step``.
        student: What they read of the student. Where its logits are lazy, all losses that read them are row-wise.
        teacher: Likewise of the teacher, whose logits may be lazy then.
        batch: With its step set.
    """
    count = batch.count
    total = torch.zeros((), device=count.device)
    raw: dict[str, Tensor] = {loss.name: total for loss in losses}  # in their order
    together = [loss for loss in losses if student.lazy_logits is not None and loss.needs.student.logits]
    if together:
        assert student.lazy_logits is not None
        expected = next((of for of in (teacher.lazy_logits, teacher.sparse_logits) if of is not None), teacher.logits)
        total, sums = head_terms(together, student.lazy_logits, expected, batch)
        raw |= {loss.name: one / count.clamp(min=1) for loss, one in zip(together, sums, strict=True)}
    for loss in losses:
        if loss not in together:
            summed, positions = term(loss, student, teacher, batch)
            mean = summed / positions.clamp(min=1)
            raw[loss.name] = mean.detach()
            total = total + loss.weight(batch.step, batch.total_steps) * mean * count
    return total, raw
