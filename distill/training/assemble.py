"""A teacher, a student and the losses between them, each ready-made or described in words."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pytorch_lightning import Trainer
from torch import nn

from distill.compression.base import compressions
from distill.core.document_masking import check_causal, check_isolation
from distill.core.idle_settings import idle
from distill.core.images import ImageProcessor
from distill.core.internals.peft import adapter_layers
from distill.core.model_spec import ModelSpec
from distill.core.ranks import is_rank_zero
from distill.core.record import steps_of
from distill.core.schedules import never
from distill.core.signals import Needs
from distill.core.task import Task, TextTask, TokenTask, WritingTask
from distill.core.utils.errors import UserError
from distill.data import TextData
from distill.data.identity import identity
from distill.data.targets import longest_target
from distill.losses import BinaryCrossEntropy, CrossEntropy, DistillationLoss, VectorCosine, VectorSimilarity
from distill.losses.callable import as_loss
from distill.losses.contract import checked_needs
from distill.models.compatibility import check_length, check_teachers
from distill.models.processors import check_picture_size, check_same_pictures, load_processor
from distill.models.students import StudentConfig, build_student
from distill.models.students.build import refuse_quantized
from distill.models.teachers import LiveTeacher, RoutedTeacher, Several, TeacherConfig, TeacherSource, build_teacher
from distill.models.tokens import check_same, check_tokenizer, set_ends, set_padding
from distill.training.across import longest_of_teacher, tokenizer_read_by
from distill.training.lora import shares_base
from distill.training.padding_probe import meet_padding
from distill.training.reads import check_reads

__all__ = [
    "bind",
    "check_trainable",
    "make_losses",
    "make_student",
    "make_teacher",
    "meet_data",
    "own_tokenizer",
    "try_reading",
]

_log = logging.getLogger(__name__)


def make_teacher(
    teacher: str | TeacherConfig | list[TeacherConfig] | nn.Module | TeacherSource | None,
    task: Task,
    labels: list[str] | None,
) -> TeacherSource | None:
    """The source of a teacher's signals, if there is a teacher."""
    if isinstance(teacher, Several) and isinstance(task, TextTask):
        teacher.one_vocabulary = check_teachers(task, teacher)
    if teacher is None or isinstance(teacher, TeacherSource):
        return teacher
    if isinstance(teacher, nn.Module):
        return LiveTeacher(teacher, task)
    for index, one in enumerate(teacher if isinstance(teacher, (list, tuple)) else [teacher]):
        if not isinstance(one, (str, TeacherConfig)):
            key = "model.teacher" if one is teacher else f"model.teacher.{index}"
            hint = "give several modules as Ensemble([LiveTeacher(module, task), ...])"
            raise UserError("a teacher is named by its path", key=key, value=type(one).__name__, hint=hint)
    return build_teacher(teacher, task, labels)


def make_student(
    student: StudentConfig | str | nn.Module,
    task: Task,
    teacher: TeacherSource | None,
    labels: list[str] | None,
    named: Any = None,
) -> nn.Module:
    """The student, which may be made of its (first) teacher's layers.

    Args:
        student: As it is named, or ready.
        task: Its own.
        teacher: Ready.
        labels: Names of the classes.
        named: The teacher as it is named.
    """
    if isinstance(student, nn.Module):
        _refuse_shared(student, teacher)
        return student
    config = StudentConfig(path=student) if isinstance(student, str) else student
    tokenizer = teacher.tokenizers[0] if teacher else None
    base = teacher.lend() if shares_base(config, named, task) and isinstance(teacher, LiveTeacher) else None
    return build_student(config, task, next(iter(teacher.models if teacher else ()), None), labels, tokenizer, base)


def _refuse_shared(student: nn.Module, teacher: TeacherSource | None) -> None:
    theirs = {id(p) for model in (teacher.models if teacher else []) for p in model.parameters()}
    shared = next((name for name, p in student.named_parameters() if id(p) in theirs), None)
    if shared is not None:
        problem = "is the student itself, or a part of it, and would be frozen with it"
        raise UserError(problem, key="model.teacher", value=shared, hint="make one of a copy: copy.deepcopy(module)")


def own_tokenizer(student: StudentConfig | str | nn.Module, task: Task, teacher: TeacherSource | None) -> Any:
    """The tokenizer that the student was trained with: beside it, or its teacher's; ``None`` where nothing names it.

    Raises:
        UserError: if it cannot be loaded, and something is to be compared with it.
    """
    config = StudentConfig(path=student) if isinstance(student, str) else student
    if isinstance(config, nn.Module) or not isinstance(task, TextTask):
        return None
    if config.path is None and config.tokenizer is None:
        return teacher.tokenizers[0] if teacher else None
    path, key = (config.tokenizer, "tokenizer") if config.tokenizer else (config.path, "path")
    assert path is not None
    try:
        return load_processor(path, f"model.student.{key}", task)
    except UserError:
        if teacher is None and config.tokenizer is None:  # the data names one
            return None
        raise


def meet_data(data: Any, task: Task, student: nn.Module, tokenizer: Any, teacher: TeacherSource | None) -> None:
    """Have the models read what the data makes: with its tokenizer, its padding, its lengths.

    Args:
        data: A data module; one that has no tokenizer says nothing.
        task: The task.
        student: The student.
        tokenizer: The student's own, or ``None``.
        teacher: The teacher, or none.

    Raises:
        UserError: if the tokenizer is not that of both models, samples are longer than one of them reads, or packed
            documents would see each other.
    """
    if isinstance(data, TextData) and isinstance(task, TextTask):
        task.follow(data.task)
        task.lead(data.task)
    maker, across = getattr(data, "tokenizer", None), getattr(data, "other_tokenizer", None) is not None
    models = list(_named(student, tokenizer, teacher))
    for who, model, own in models if hasattr(maker, "get_vocab") else ():
        read = tokenizer_read_by(who, data)
        if own is not None:
            check_same(read, own, who, "data.tokenizer" if read is maker else "data.teacher_tokenizer")
        check_tokenizer(read, who, model)
        set_padding(model, read)
    if isinstance(maker, ImageProcessor):
        for who, model, own in models:
            check_same_pictures(maker, own, who)
            check_picture_size(maker, model, who)
    if isinstance(task, WritingTask) and hasattr(maker, "get_vocab"):
        set_ends(student, maker, teacher.models if teacher and not across else ())
    meet_routes(data, teacher)
    if isinstance(data, TextData):
        if teacher is not None:
            teacher.meet(identity(data))
        key, length = data.longest
        check_length(key, length, [(who, model) for who, model, _ in models if model is student or not across])
        if (target := longest_target(data)) is not None:
            check_length(*target, [(who, model) for who, model, _ in models])
        if across:
            theirs = longest_of_teacher(data)
            check_length("data.teacher_tokenizer", theirs, [(who, model) for who, model, _ in models[:-1]])
        for who, model, _ in models:
            if isinstance(task, TokenTask) and task.reads_on:
                check_causal(who, model)
            if data.isolates:
                check_isolation(who, model)
        goes_on = isinstance(task, WritingTask) and not task.reads_apart  # whose tokenizers pad on the left
        if isinstance(task, TextTask) and task.reads == "tokens" and not goes_on:
            meet_padding([(who, model) for who, model, _ in models], task, data)


def meet_routes(data: Any, teacher: TeacherSource | None) -> None:
    """Have teachers that teach rows of their own know these; of data that is given.

    Raises:
        UserError: if rows name other teachers, or the teacher is none that heeds what they say.
    """
    if isinstance(teacher, RoutedTeacher) and data is not None:
        teacher.meet_data(data)
    elif teacher is not None and (routes := getattr(data, "routes", None)):
        beside = "a teacher of all rows"
        raise idle("data.columns.teacher", ", ".join(routes), beside, "give several, each with what it teaches")


def try_reading(data: Any, task: Task, student: nn.Module, teacher: TeacherSource | None, needs: Needs) -> None:
    """Have both models read two texts with the data's tokenizer (:func:`~distill.training.reads.check_reads`).

    Raises:
        UserError: if one of them cannot.
    """
    if isinstance(data, TextData) and isinstance(task, TextTask):
        for who, model, _ in _named(student, None, teacher):
            request = needs.student if who == "model.student" else needs.teacher
            check_reads(who, model, task, tokenizer_read_by(who, data), request)


def _named(student: nn.Module, own: Any, teacher: TeacherSource | None) -> Iterator[tuple[str, nn.Module, Any]]:
    """Each model with its key and its tokenizer."""
    count = len(teacher.models) if teacher else 0
    for number in range(count):
        assert teacher is not None
        who = "model.teacher" if count == 1 else f"model.teacher.{number}"
        yield who, teacher.models[number], teacher.tokenizers[number]
    yield "model.student", student, own


def make_losses(losses: Sequence[Any] | None, task: Task) -> list[DistillationLoss]:
    """The terms of the objective: as given, or what fits the labels of the task.

    Raises:
        UserError: if there is none, all weigh nothing, or one is neither a loss nor a function of two models' logits.
    """
    if losses is None:
        return _default_losses(task)
    if isinstance(losses, (str, Mapping)) or not isinstance(losses, (Sequence, nn.ModuleList)):
        kind = type(losses).__name__
        raise UserError("must be a list of losses", key="model.losses", value=kind, hint="put it in brackets: [loss]")
    if not losses:
        raise UserError("at least one loss is needed", key="model.losses", value=[], hint="add CrossEntropy")
    made = [as_loss(loss, index) for index, loss in enumerate(losses)]
    if all(never(loss.weight) for loss in made):
        problem = "the weights of all losses are 0, so nothing would be trained"
        raise UserError(problem, key="model.losses", hint="give one of them a weight above 0")
    return made


def _default_losses(task: Task) -> list[DistillationLoss]:
    if task.outputs == "vectors":
        return [VectorCosine(), VectorSimilarity()]
    return [BinaryCrossEntropy() if task.outputs == "labels" else CrossEntropy()]


def bind(losses: Sequence[DistillationLoss], task: Task, student: nn.Module, teacher: TeacherSource | None) -> Needs:
    """Have the losses meet the two models; what they read of these.

    Raises:
        UserError: if two have one name, or one cannot work with this task or these models.
    """
    names = [loss.name for loss in losses]
    for index, name in enumerate(names):
        if name in names[:index]:
            key = f"model.losses.{index}.name"
            raise UserError("names of losses must differ", key=key, value=name, hint="name one of them")
    spec, needs = ModelSpec(student, "model.student"), Needs()
    for index, loss in enumerate(losses):
        _check_outputs(loss, task, f"model.losses.{index}")
        if loss.reads_weights and adapter_layers(student):
            problem = "reads weights that model.student.lora has frozen"
            key, name = f"model.losses.{index}", type(loss).__name__
            raise UserError(problem, key=key, value=name, hint="leave one of them out")
        try:
            theirs = teacher.spec.of(loss.stack) if teacher else None
            loss.bind(spec.of(loss.stack), theirs)
            needs = needs | checked_needs(loss, theirs).of(loss.stack)
            if task.outputs == "vectors" and loss.outputs != "vectors" and teacher is not None:
                _check_vectors(loss, spec, teacher.spec)
        except UserError as error:
            raise error.within(f"model.losses.{index}") from None
    return needs


_OUTPUTS = {
    "classes": ("a sample has one class of a softmax", "HintonKL and CrossEntropy"),
    "labels": ("each class is a yes or no of its own", "BinaryKL and BinaryCrossEntropy"),
    "vectors": ("a text has a vector", "VectorCosine and VectorSimilarity"),
    "positions": ("an answer has a place in its text", "HintonKL and CrossEntropy"),
}
"""What a task's outputs are -> in words, and the losses for them."""


def _check_outputs(loss: DistillationLoss, task: Task, key: str) -> None:
    words, losses = _OUTPUTS.get(task.outputs, ("", ""))
    if task.outputs == "positions" and loss.outputs in ("any", "classes"):
        if why := loss.why_not_positions:
            problem = f"{why}, and {task.name} predicts places in a text, of which each sample has its own number"
            raise UserError(problem, key=key, value=type(loss).__name__, hint=f"use {losses}")
        return
    if "any" in (loss.outputs, task.outputs) or loss.outputs == task.outputs:
        return
    problem = f"is not for {task.name}, where {words}"
    more = "" if task.outputs == "positions" else ", or LogitMSE"
    raise UserError(problem, key=key, value=type(loss).__name__, hint=f"use {losses}{more}")


def _check_vectors(loss: DistillationLoss, student: ModelSpec, teacher: ModelSpec) -> None:
    """Refuse a loss that would compare the features of vectors of two widths one by one."""
    compares = loss.needs.student.logits and loss.needs.teacher.logits
    if not compares or student.config is None or teacher.config is None:
        return
    if student.hidden_size != teacher.hidden_size:
        widths = f"the student's have {student.hidden_size} features and the teacher's {teacher.hidden_size}"
        problem, hint = f"compares vectors of one width, and {widths}", "use VectorMSE, which learns a map between them"
        raise UserError(problem, key="", value=type(loss).__name__, hint=hint)


def check_trainable(student: nn.Module, trainer: Trainer) -> None:
    """Refuse a quantized student, and warn of a pruned one whose zeros nothing holds.

    Raises:
        UserError: as training would undo the rounding of its weights.
    """
    refuse_quantized(student, None)
    pruned = any(step["kind"] == "sparsity" for step in steps_of(student))
    if pruned and not any(c.masked(student) for c in compressions(trainer)) and is_rank_zero():
        merged = "merging its adapter fills its zeros; prune what comes of it"
        held = "nothing holds its zeros; add GradualMagnitudePruning"
        _log.warning("model.student was pruned, and %s", merged if adapter_layers(student) else held)
