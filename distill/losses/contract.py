"""What a loss of one's own must hold to, and what is said where it does not."""

from __future__ import annotations

import copy
import logging
from typing import Any

import torch
from torch import Tensor

from distill.core.model_spec import ModelSpec
from distill.core.schedules import never
from distill.core.signals import Batch, Needs, Request, Signals
from distill.core.utils.errors import UserError
from distill.losses.base import DistillationLoss, LossSum

__all__ = ["checked_needs", "term"]

_log = logging.getLogger(__name__)


def checked_needs(loss: DistillationLoss, teacher: ModelSpec | None) -> Needs:
    """What a bound loss reads of the two models.

    Raises:
        UserError: if it says so by anything else than a :class:`Needs`, or reads a teacher that is not there.
    """
    needs: Any = loss.needs
    if not isinstance(needs, Needs):
        problem = f"needs must be a Needs, and is a {type(needs).__name__}"
        hint = "write @property above it, and return Needs(student=Request(...), teacher=Request(...))"
        raise UserError(problem, key=loss.name, hint=hint)
    if needs.teacher:
        loss.require_teacher(teacher)
    return needs


def term(loss: DistillationLoss, student: Signals, teacher: Signals, batch: Batch) -> LossSum:
    """What ``loss`` gives for a batch.

    Raises:
        UserError: if that is no :class:`LossSum` of two scalars, or has no gradient.
    """
    student, teacher, batch = student.of(loss.stack), teacher.of(loss.stack), batch.of(loss.stack)
    if type(loss).__module__.startswith("distill."):
        given: LossSum = loss(student, teacher, batch)
        return given
    try:
        own: Any = loss(student, teacher, batch)
    except Exception as error:
        asked = f"student={_asked(loss.needs.student)}, teacher={_asked(loss.needs.teacher)}"
        error.add_note(f"in the loss {loss.name}; forward(student, teacher, batch) gets what needs asks for: {asked}")
        raise
    _check(loss, own, student)
    if not loss.tried:
        loss.tried = True
        _warn_of_mean(loss, student, teacher, batch)
    return LossSum(own[0], own[1])


def _asked(request: Request) -> str:
    parts = ["logits"] if request.logits else []
    for name in ("hidden_states", "attentions", "projections", "taps"):
        parts += [f"{name} {sorted(getattr(request, name))}"] if getattr(request, name) else []
    return ", ".join(parts) or "nothing"


def _check(loss: DistillationLoss, given: Any, student: Signals) -> None:
    hint = "return LossSum(total, batch.count), total the sum over the predictions"
    if not isinstance(given, tuple) or len(given) != 2:
        found = f"a tensor of {list(given.shape)}" if isinstance(given, Tensor) else f"a {type(given).__name__}"
        raise UserError(f"forward must return a LossSum, and returns {found}", key=loss.name, hint=hint)
    for name, part in zip(("total", "positions"), given, strict=True):
        if not isinstance(part, Tensor) or part.dim():
            found = f"of {list(part.shape)}" if isinstance(part, Tensor) else f"a {type(part).__name__}"
            raise UserError(f"{name} must be a tensor without axes, and is {found}", key=loss.name, hint=hint)
    trained = loss.needs.student.logits and student.logits is not None and student.logits.requires_grad
    if torch.is_grad_enabled() and trained and not given[0].requires_grad and not never(loss.weight):
        hint = "compute it of the student's signals, without detach(), or give it weight 0 to log it alone"
        raise UserError("what it returns has no gradient", key=loss.name, hint=hint)


@torch.no_grad()
def _warn_of_mean(loss: DistillationLoss, student: Signals, teacher: Signals, batch: Batch) -> None:
    """Say where a loss of logits gives a mean for a sum, which the count would divide once more.

    One sample is shown to a copy, once and twice; the random numbers stay as they were: a resumed run does it again.
    """
    if loss.needs.student | loss.needs.teacher != Request(logits=True):
        return
    one = batch.first(1)
    ours, theirs = (Signals(None if s.logits is None else s.logits[:1].detach()) for s in (student, teacher))
    with torch.random.fork_rng(devices=[batch.count.device] if batch.count.is_cuda else []):
        try:
            copied = copy.deepcopy(loss).eval()
            once = copied(ours, theirs, one)
            twice = copied(ours.repeated(2), theirs.repeated(2), one.repeated(2))
        except Exception:  # it is for whole batches
            return
    alike = (twice.total - once.total).abs() < 1e-3 * once.total.abs()
    if bool(alike & (twice.positions == 2 * once.positions)):
        _log.warning(
            "%s gives the same total for a sample once and twice, as a mean does: it must be the sum over the "
            "predictions, which is divided by their count later",
            loss.name,
        )
