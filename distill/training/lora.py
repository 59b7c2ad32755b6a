"""A student that trains an adapter, and a teacher that is its own base: the same weights, the adapter switched off."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from torch import nn

from distill.core import record
from distill.core.schedules import never
from distill.core.task import Task, TokenTask
from distill.core.utils.errors import UserError
from distill.core.utils.paths import resolve
from distill.data import TextData
from distill.losses import DistillationLoss
from distill.models.students import StudentConfig
from distill.models.teachers import TeacherConfig

__all__ = ["merge_adapter", "refuse_agreement", "shares_base"]


def shares_base(student: Any, teacher: Any, task: Task) -> bool:
    """Whether a language model's teacher is the student's own base, of which one copy is enough.

    Args:
        student: As it is named.
        teacher: Likewise.
        task: Of both. Of a classifier the data may name the outputs one way, and the teacher another.
    """
    [teacher] = teacher if isinstance(teacher, list) and len(teacher) == 1 else [teacher]
    teacher = TeacherConfig(path=teacher) if isinstance(teacher, str) else teacher
    if not isinstance(student, StudentConfig) or not isinstance(teacher, TeacherConfig) or student.lora is None:
        return False
    whole = not (student.cuts_layers or student.narrows)
    mine = student.path, "float32", student.attn_implementation, None
    theirs = teacher.path, teacher.dtype, teacher.attn_implementation, teacher.recorded
    return whole and isinstance(task, TokenTask) and mine == theirs


def refuse_agreement(data: Any, losses: Sequence[DistillationLoss]) -> None:
    """Refuse a teacher that is the student's own base, and of which nothing is to be learned.

    Args:
        data: What is trained on.
        losses: The objective.

    Raises:
        UserError: if nothing but the teacher teaches, and it reads what the student reads.
    """
    labels = any(loss.reads_labels and not never(loss.weight) for loss in losses)
    if isinstance(data, TextData) and not data.teacher_system and not labels:
        problem = "is the student's own base and reads the same, so the two agree from the start"
        hint = "tell it more by data.teacher_system, add CrossEntropy, or name another teacher"
        raise UserError(problem, key="model.teacher", hint=hint)


def merge_adapter(
    student: nn.Module, config: StudentConfig | None, own_base: bool
) -> tuple[nn.Module, dict[str, bytes]]:
    """The plain model with its adapter merged, if ``model.student.lora`` gave it one, and the adapter's own files.

    Args:
        student: As it was trained; changed in place.
        config: What it is made of.
        own_base: Whether it is the teacher too, and goes on as that: the plain model again.

    Returns:
        The model, and name -> content; no files where there is no base to open them beside.
    """
    if config is None or config.lora is None:
        return student, {}
    from distill.models.students import adapter  # imports peft

    whole = config.path is not None and not (config.cuts_layers or config.narrows)
    files = adapter.adapter_files(student, resolve(str(config.path), "model.student.path")) if whole else {}
    merged = copy.deepcopy(student) if own_base else student
    if own_base:
        adapter.remove_adapter(student, merge=False)
    adapter.remove_adapter(merged, merge=True)
    record.recount_zeros(merged)
    return merged, {f"adapter/{name}": content for name, content in files.items()}
