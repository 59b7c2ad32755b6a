"""A teacher, a student and the losses between them, each ready-made or described in words."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from distill.errors import UserError
from distill.losses import DistillationLoss
from distill.models import ModelSpec
from distill.signals import Needs
from distill.students import StudentConfig, build_student
from distill.tasks import Task
from distill.teachers import LiveTeacher, TeacherConfig, TeacherSource, build_teacher

__all__ = ["bind", "make_student", "make_teacher"]


def make_teacher(
    teacher: str | TeacherConfig | list[TeacherConfig] | nn.Module | TeacherSource | None,
    task: Task,
    labels: list[str] | None,
) -> TeacherSource | None:
    """The source of a teacher's signals, if there is a teacher."""
    if teacher is None or isinstance(teacher, TeacherSource):
        return teacher
    if isinstance(teacher, nn.Module):
        return LiveTeacher(teacher, task)
    return build_teacher(teacher, task, labels)


def make_student(
    student: StudentConfig | str | nn.Module, task: Task, teacher: TeacherSource | None, labels: list[str] | None
) -> nn.Module:
    """The student, which may be made of its (first) teacher's layers."""
    if isinstance(student, nn.Module):
        return student
    config = StudentConfig(path=student) if isinstance(student, str) else student
    return build_student(config, task, teacher.models[0] if teacher else None, labels)


def bind(losses: Sequence[DistillationLoss], student: nn.Module, teacher: TeacherSource | None) -> Needs:
    """Have the losses meet the two models; what they read of these.

    Raises:
        UserError: if two have one name, or one cannot work with these models.
    """
    names = [loss.name for loss in losses]
    for index, name in enumerate(names):
        if name in names[:index]:
            key = f"model.losses.{index}.name"
            raise UserError("names of losses must differ", key=key, value=name, mend="name one of them")
    spec, needs = ModelSpec(student, "model.student"), Needs()
    for index, loss in enumerate(losses):
        try:
            loss.bind(spec, teacher.spec if teacher else None)
        except UserError as error:
            raise error.within(f"model.losses.{index}") from None
        needs = needs | loss.needs
    return needs
