"""A student and a teacher of different tokenizers: which losses can compare them, and in what tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from distill.core.utils.errors import UserError
from distill.data import TextData
from distill.data.features import Ragged
from distill.losses import DistillationLoss
from distill.models.compatibility import predicts_tokens
from distill.models.teachers import RecordedTeacher, TeacherSource
from distill.tasks import Task

__all__ = ["check_across", "longest_of_teacher", "meet_tokenizers", "tokenizer_read_by"]

_KEY = "data.teacher_tokenizer"


def check_across(
    losses: Sequence[DistillationLoss], task: Task, teacher: TeacherSource | None, on_policy: bool
) -> bool:
    """Whether losses compare a student with a teacher of another tokenizer.

    Args:
        losses: Bound.
        task: Of the run.
        teacher: Likewise.
        on_policy: Whether the student writes some of the batches.

    Raises:
        UserError: if one does, and another compares the two token by token; or something else stands in the way.
    """
    across = [loss for loss in losses if loss.across_tokenizers]
    if not across or teacher is None:
        return False
    name = type(across[0]).__name__
    if not predicts_tokens(task):
        problem, hint = f"is for language models, and this is {task.name}", "use HintonKL"
        raise UserError(problem, key="model.losses", value=name, hint=hint)
    for number, loss in enumerate(losses):
        if loss.needs.teacher and not loss.across_tokenizers:
            problem = f"compares student and teacher token by token, and {name} beside it has them read other tokens"
            hint = f"leave one of them out; of losses that read the teacher only such as {name} can stand beside it"
            raise UserError(problem, key=f"model.losses.{number}", value=type(loss).__name__, hint=hint)
    if on_policy:
        problem = f"what the student writes is in its own tokens, and {name} needs it in the teacher's too"
        raise UserError(problem, key="model.on_policy", hint="leave it out, or take a teacher of the same tokenizer")
    if isinstance(teacher, RecordedTeacher):
        problem = f"a recording is of the student's tokens, and {name} needs a teacher that reads its own"
        raise UserError(problem, key="model.teacher.recorded", hint="take the teacher itself: model.teacher.path")
    return True


def tokenizer_read_by(who: str, data: Any) -> Any:
    """The tokenizer of ``data`` that makes what the model ``who`` reads; ``None`` where the data has none."""
    other = getattr(data, "other_tokenizer", None) if who.startswith("model.teacher") else None
    return getattr(data, "tokenizer", None) if other is None else other


def longest_of_teacher(data: TextData) -> int:
    """Tokens of the longest sample that a teacher of another tokenizer reads of what is tokenized."""
    found = [samples.features["teacher_input_ids"] for samples in data.tokenized.values()]
    return max((int(one.lengths.max(initial=0)) for one in found if isinstance(one, Ragged)), default=0)


def meet_tokenizers(losses: Sequence[DistillationLoss], data: Any) -> None:
    """Have the losses that compare across tokenizers know both.

    Raises:
        UserError: if the data has but one; or two, and no loss compares across them.
    """
    across = [loss for loss in losses if loss.across_tokenizers]
    other = getattr(data, "other_tokenizer", None)
    if across and other is None:
        problem = f"{type(across[0]).__name__} compares a student with a teacher that reads the texts in its own tokens"
        raise UserError(problem, key=_KEY, hint="name the teacher's tokenizer, which can be the teacher's path")
    if other is not None and not across:
        problem = "has no effect with losses that compare the two models token by token, or not at all"
        hint = "add SharedVocabularyKL or UniversalLogitDistillation, or leave it out"
        raise UserError(problem, key=_KEY, value=data.teacher_tokenizer, hint=hint)
    for loss in across:
        meet: Any = getattr(loss, "meet_tokenizers", None)
        if meet is not None:
            meet(data.tokenizer, other)
