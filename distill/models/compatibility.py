"""Whether teacher and student speak of the same tokens and the same classes."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from torch import nn

from distill.core.signals import Signals
from distill.core.task import Task, TextTask
from distill.core.utils.errors import UserError
from distill.core.utils.words import amount
from distill.models.tokens import by_id, embedding_rows, said, tokens_differ

if TYPE_CHECKING:
    from distill.models.teachers import TeacherSource

__all__ = [
    "check_labels",
    "check_length",
    "check_pair",
    "check_teachers",
    "check_vocabularies",
    "check_widths",
    "label_names",
    "names_classes",
    "positions_of",
]

_LISTED = 12

_log = logging.getLogger(__name__)


def predicts_tokens(task: Task) -> bool:
    """Whether the task's logits run over the vocabulary."""
    return isinstance(task, TextTask) and task.predicted is not None


def names_classes(task: Task) -> bool:
    """Whether the outputs of a head are classes, which have names and a number."""
    return not predicts_tokens(task) and task.outputs not in ("vectors", "positions")


def check_vocabularies(
    student_tokenizer: Any,
    teacher_tokenizer: Any,
    student_vocab_size: int,
    teacher_vocab_size: int,
    task: Task,
) -> int:
    """The number of rows that the embeddings (or logits that the heads) of student and teacher have in common.

    The maps from token to id are compared, not their lengths: models of equal length may have other tokens,
    and one of another length may only be padded (Qwen2.5 has heads of 151,936 and of 152,064); the losses
    compare the shared range.

    Args:
        student_tokenizer: Of transformers.
        teacher_tokenizer: Of transformers.
        student_vocab_size: Rows of the student's embedding, padding included.
        teacher_vocab_size: Rows of the teacher's.
        task: Says whether logits are over the vocabulary; the models read the same ids in any case.

    Raises:
        UserError: if a token has another id in the other vocabulary, or none, or lies beyond an embedding.
    """
    shared = min(student_vocab_size, teacher_vocab_size)
    different = tokens_differ(student_tokenizer, teacher_tokenizer)
    if different:
        example = different[0]
        ours, others = said(student_tokenizer, example), said(teacher_tokenizer, example)
        theirs = f"id {example} is {ours} for the student, {others} for the teacher"
        across = (
            ", or compare texts and not tokens: SharedVocabularyKL or UniversalLogitDistillation"
            if predicts_tokens(task)
            else ""
        )
        why = (
            "so their logits cannot be compared token by token"
            if predicts_tokens(task)
            else "and both models read the same ids"
        )
        raise UserError(
            f"the vocabularies of student and teacher differ in {amount(len(different), 'token')} ({theirs}), {why}",
            key="model.student.tokenizer",
            hint="choose a student of the teacher's family, or one made from the teacher by layers or config" + across,
        )
    beyond = max(by_id(student_tokenizer), default=0)
    if beyond >= shared:
        who = "student" if student_vocab_size == shared else "teacher"
        raise UserError(
            f"the tokenizer's id {beyond} ({said(student_tokenizer, beyond)}) lies beyond the {shared} rows of the "
            f"{who}'s embedding",
            key=f"model.{who}",
            hint="give the tokenizer that the model was trained with",
        )
    return shared


def label_names(model: nn.Module) -> list[str] | None:
    """The names of a model's classes in the order of their ids."""
    names = getattr(getattr(model, "config", None), "id2label", None)
    if names and sorted(names) != list(range(len(names))):
        numbers = ", ".join(map(str, sorted(names)))
        problem = f"numbers its {amount(len(names), 'class')} not from 0 on without a gap: {numbers}"
        raise UserError(problem, key="id2label", value=dict(names), hint="correct the model's config.json")
    return [str(names[i]) for i in sorted(names)] if names else None


def _plain(names: Sequence[str]) -> list[str]:
    """Names to compare: ``LABEL_7``, as transformers calls a class without a name, is ``7``."""
    folded = [re.sub(r"[\s_-]+", "_", name.strip().casefold()) for name in names]
    numbers = [name.removeprefix("label_") for name in folded]
    return [str(int(n)) if n.isdecimal() else name for name, n in zip(folded, numbers, strict=True)]


def check_labels(
    student: nn.Module | None,
    teacher: nn.Module | None,
    data: Sequence[str] | None,
    *,
    warn: bool = True,
    who: tuple[str, str] = ("model.student", "model.teacher"),
) -> None:
    """Refuse classes of another number, the same classes in another order, and a teacher of wholly other ones.

    A student is trained to give the data's, whatever it calls its own.

    Args:
        student: A model whose configuration names its classes; ``None`` to leave it out.
        teacher: Likewise.
        data: The names in the data, in the order of their ids.
        warn: Whether a line says what cannot be known of the order: one, of whatever many pairs it is true.
        who: The two models' keys.

    Raises:
        UserError: if two of the three do not fit together.
    """
    counted: list[tuple[str, int, list[str] | None]] = []
    for key, model in zip(who, (student, teacher), strict=True):
        count = getattr(getattr(model, "config", None), "num_labels", None)
        if model is not None and isinstance(count, int):
            counted.append((key, count, label_names(model)))
    if data is not None:
        counted.append(("the data", len(data), list(data)))
    for number, one in enumerate(counted):
        for other in counted[number + 1 :]:
            doubt = _compare_labels(*one, *other)
            if doubt and warn:
                _log.warning("%s", doubt)
                warn = False


def _compare_labels(
    who: str, count: int, names: list[str] | None, other: str, other_count: int, other_names: list[str] | None
) -> str:
    """Refuse classes that do not fit together; what remains in doubt, in words."""
    data = other == "the data"
    plain, other_plain = _plain(names or ()), _plain(other_names or ())
    spelled = dict(zip(other_plain, other_names or (), strict=True))
    listed = ", ".join(spelled.get(one, name) for one, name in zip(plain, names or (), strict=True))
    order = f"give the classes in the model's order: data.labels: [{listed}]"
    if count != other_count:
        raise UserError(
            f"{who} has {amount(count, 'class')}{_listed(names)} and {other} has {other_count}{_listed(other_names)}",
            key=who,
            hint=order if data and count > other_count and names else "name a model trained on the same classes",
        )
    if names is None or other_names is None or plain == other_plain:
        return ""
    if set(plain) == set(other_plain):
        raise UserError(
            f"{who} has the classes {', '.join(names)}, and {other} has the same in another order: "
            f"{', '.join(other_names)}",
            key=who,
            hint=order if data else "name another model",
        )
    numbers = [str(i) for i in range(count)]
    if numbers in (plain, other_plain):
        named, known, numbered = (who, names, other) if other_plain == numbers else (other, other_names, who)
        order = "see that the order is the same, which data.labels can give"
        return f"{named} calls its classes {known}, {numbered} only numbers them; {order}"
    problem = f"{who} calls its classes {names}, and {other} {other_names}"
    if "model.student" in (who, other):
        return f"{problem}; taken for the same, in this order"
    one, theirs = (f"[{', '.join(some)}]" for some in (other_names, names))
    hint = f"if they are the same in this order, say so by {who}.labels: {one} (of a module, by its config.id2label)"
    more = f"; where the data numbers its classes, data.labels: {theirs} names them"
    raise UserError(problem, key=who, hint=hint + more if data else hint)


def _listed(names: Sequence[str] | None) -> str:
    """The names in brackets, where they say more than numbers do."""
    if names is None or [*_plain(names)] == [str(i) for i in range(len(names))]:
        return ""
    return f" ({', '.join(names[:_LISTED])}{', ...' if len(names) > _LISTED else ''})"


def check_pair(task: Task, tokenizer: Any, student: nn.Module, teacher: TeacherSource | None) -> bool:
    """Refuse a student and a teacher that cannot be compared.

    Args:
        task: The task of both.
        tokenizer: The student's own; ``None`` where it has none, or the teacher's.
        student: The student.
        teacher: The teacher, or none.

    Returns:
        Whether the logits of the two may differ in width: vectors, or over one vocabulary, of which one may be padded.

    Raises:
        UserError: see :func:`check_labels` and :func:`check_vocabularies`.
    """
    if teacher is None or not isinstance(task, TextTask):
        return False
    models = zip(teacher.models or [teacher.spec.model], teacher.tokenizers, strict=True)
    compared = [_check_models(task, student, tokenizer or theirs, model, theirs) for model, theirs in models]
    return task.outputs == "vectors" or (predicts_tokens(task) and all(compared))


def check_widths(student: Signals, teacher: Signals) -> None:
    """Refuse logits of another number of classes.

    Raises:
        UserError: with both numbers.
    """
    ours, theirs = student.width, teacher.width
    if ours is not None and theirs is not None and ours != theirs:
        raise UserError(
            f"the student has {ours} outputs and the teacher {theirs}, and nothing says that these are the same",
            key="model.student",
            hint="give the student a head of the teacher's classes; for language models name both tokenizers",
        )


def check_length(key: str, length: int, models: Iterable[tuple[str, nn.Module]]) -> None:
    """Refuse samples longer than a model has positions.

    Args:
        key: The setting that bounds the length.
        length: Its tokens.
        models: With the keys by which the configuration calls them.

    Raises:
        UserError: naming the model and its positions.
    """
    for who, model in models:
        positions = positions_of(model)
        if positions is not None and length > positions:
            raise UserError(f"{who} has {positions} positions", key=key, value=length, hint=f"give {positions} or less")


def positions_of(model: nn.Module) -> int | None:
    """How many tokens a model reads at most; ``None`` where that is not bounded, or not known.

    Rotary positions continue beyond what was trained, and so do relative ones (XLNet's configuration says -1).
    """
    config: Any = getattr(model, "config", None)
    config = config.get_text_config() if hasattr(config, "get_text_config") else config
    positions = getattr(config, "max_position_embeddings", None)
    if not isinstance(positions, int) or positions < 1 or getattr(config, "rope_parameters", None) is not None:
        return None
    return positions - _first_position(model)


def _first_position(model: nn.Module) -> int:
    """RoBERTa's positions begin behind the padding's."""
    tables = [m for name, m in model.named_modules() if name.endswith("position_embeddings")]
    padding = getattr(tables[0], "padding_idx", None) if tables else None
    return 0 if padding is None else padding + 1


def check_teachers(task: TextTask, teacher: TeacherSource) -> bool:
    """Refuse teachers of one ensemble that do not speak of the same classes or tokens.

    Returns:
        Whether their logits are over one vocabulary, of which one may be padded.

    Raises:
        UserError: see :func:`check_labels` and :func:`check_vocabularies`.
    """
    first, first_tokenizer = teacher.models[0], teacher.tokenizers[0]
    others = zip(teacher.models[1:], teacher.tokenizers[1:], strict=True)
    compared = [
        _check_models(task, first, first_tokenizer, model, tokenizer, ("model.teacher.0", f"model.teacher.{number}"))
        for number, (model, tokenizer) in enumerate(others, 1)
    ]
    return predicts_tokens(task) and all(compared)


def _check_models(
    task: TextTask,
    student: nn.Module,
    ours: Any,
    teacher: nn.Module,
    theirs: Any,
    who: tuple[str, str] = ("model.student", "model.teacher"),
) -> bool:
    """Whether there were tokenizers to compare."""
    if names_classes(task):
        check_labels(student, teacher, task.labels, who=who)
    sizes = embedding_rows(student), embedding_rows(teacher)
    if ours is None or theirs is None or sizes[0] is None or sizes[1] is None:
        return False
    check_vocabularies(ours, theirs, sizes[0], sizes[1], task)
    return True
