"""The teachers that a configuration names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from torch import nn

from distill.core.idle_settings import Idle, idle, refuse_idle
from distill.core.task import Task, TextTask
from distill.core.teacher import TeacherSource
from distill.core.utils.errors import UserError
from distill.models.compatibility import check_labels, check_teachers, label_names, names_classes, predicts_tokens
from distill.models.pretrained import load_model
from distill.models.processors import load_processor
from distill.models.teachers.ensemble import Ensemble
from distill.models.teachers.live import LiveTeacher
from distill.models.teachers.recorded import RecordedTeacher
from distill.models.teachers.routed import RoutedTeacher
from distill.models.teachers.several import Several

__all__ = ["TeacherConfig", "build_teacher"]

_OF_MODEL = ("dtype", "attn_implementation", "labels", "remember")
"""Settings of a model that is loaded."""


@dataclass(frozen=True, kw_only=True)
class TeacherConfig:
    """One teacher.

    Attributes:
        path: Hub id, folder, or earlier run; its head must be trained for the task.
        recorded: Folder of what ``distill record`` has kept of it, which is then read instead of running it. Beside a
            ``path`` the model is loaded too, for validation and for a student that is made of its layers.
        weight: How much it counts among several, greater than 0.
        teaches: Among several that each teach rows of their own: what the column ``data.columns.teacher`` says of its
            rows.
        dtype: Of its weights; ``auto`` is as they are stored. Half precision saves memory and time on a GPU.
        attn_implementation: ``eager`` (needed for losses on attention maps), ``sdpa``, ...
        labels: What the data calls its classes, in the order of its outputs, where it has other names for them.
        remember: Whether its logits are remembered by sample, so that it runs once for each; see
            :class:`~distill.models.teachers.LiveTeacher`.
    """

    path: str | None = None
    recorded: str | None = None
    weight: float = 1.0
    teaches: str | None = None
    dtype: Literal["float32", "bfloat16", "float16", "auto"] = "float32"
    attn_implementation: str | None = None
    labels: list[str] | None = None
    remember: bool = True


def build_teacher(
    configs: str | TeacherConfig | Sequence[str | TeacherConfig], task: Task, labels: Sequence[str] | None = None
) -> TeacherSource:
    """The teacher; of several their :class:`Ensemble`, or a :class:`RoutedTeacher` where each says what it teaches.

    Args:
        configs: A path, a teacher, or a list of them.
        task: Which head a teacher needs.
        labels: Names of the classes in the order of their ids, as the data has them; the task's if not given.

    Raises:
        UserError: if one cannot be loaded, has no trained head for the task, or has other classes.
    """
    if not isinstance(task, TextTask):
        raise UserError(
            f"a teacher for {task.name} cannot be named by path",
            key="model.teacher",
            hint="give a module: Distillation(teacher=module, ...)",
        )
    labels = labels if labels is not None else task.labels
    alone = configs[0] if isinstance(configs, Sequence) and len(configs) == 1 else configs
    if isinstance(alone, TeacherConfig) and alone.weight != 1.0:
        key = "model.teacher.weight" if alone is configs else "model.teacher.0.weight"
        raise idle(key, alone.weight, "a single teacher", "name several")
    if isinstance(alone, TeacherConfig) and alone.teaches is not None:
        key = "model.teacher.teaches" if alone is configs else "model.teacher.0.teaches"
        raise idle(key, alone.teaches, "a single teacher, which teaches all rows", "name several")
    if isinstance(configs, str | TeacherConfig):
        return _source(configs, task, labels, "model.teacher")
    for number, one in enumerate(configs):
        if len(configs) > 1 and isinstance(one, TeacherConfig) and one.recorded is not None:
            problem, hint = "a recording stands alone", "record all of them as one teacher: --as logits"
            raise UserError(problem, key=f"model.teacher.{number}.recorded", value=one.recorded, hint=hint)
    names = _routes(configs)
    sources = [_source(one, task, labels, f"model.teacher.{number}") for number, one in enumerate(configs)]
    if len(sources) == 1:
        return sources[0]
    several: Several
    if names:
        several = RoutedTeacher(dict(zip(names, sources, strict=True)))
    else:
        several = Ensemble(sources, [1.0 if isinstance(one, str) else one.weight for one in configs])
    several.one_vocabulary = check_teachers(task, several)
    return several


def _routes(configs: Sequence[str | TeacherConfig]) -> list[str]:
    """What each of several teachers teaches; none where they are weighed.

    Raises:
        UserError: if only some say so, two say the same, or one is weighed too.
    """
    given = [None if isinstance(one, str) else one.teaches for one in configs]
    names = [name for name in given if name is not None]
    for number, (one, name) in enumerate(zip(configs, given, strict=True)):
        key = f"model.teacher.{number}"
        if names and name is None:
            problem = f"does not say which rows it teaches, as {names[0]!r} does"
            raise UserError(problem, key=f"{key}.teaches", hint="give what data.columns.teacher says of its rows")
        if name is not None and given.index(name) < number:
            problem, hint = "two teachers teach the same rows", "name each once"
            raise UserError(problem, key=f"{key}.teaches", value=name, hint=hint)
        if name is not None and isinstance(one, TeacherConfig) and one.weight != 1.0:
            raise idle(f"{key}.weight", one.weight, "teachers that teach rows of their own", "drop teaches")
    return names


def _source(config: str | TeacherConfig, task: TextTask, labels: Sequence[str] | None, key: str) -> TeacherSource:
    config = TeacherConfig(path=config) if isinstance(config, str) else config
    if config.recorded is None:
        return _live(config, task, labels, key)
    without = "a recording alone, of which no model is loaded"
    refuse_idle(
        TeacherConfig,
        vars(config),
        [Idle(name, config.path is None, without, "name the path too") for name in _OF_MODEL],
        f"{key}.",
    )
    live = None if config.path is None else _live(config, task, labels, key)
    return RecordedTeacher(config.recorded, task, live, key)


def _live(config: TeacherConfig, task: TextTask, labels: Sequence[str] | None, key: str) -> LiveTeacher:
    if config.path is None:
        hint = "give its path, or recorded: the folder of what distill record has kept of it"
        raise UserError("nothing says where the teacher is", key=key, hint=hint)
    model = load_model(
        config.path,
        task.auto_model,
        f"{key}.path",
        head={},  # its own: names and number of its classes are compared with the data's, not overwritten
        attn_implementation=config.attn_implementation,
        dtype=config.dtype,
        trained=True,
    )
    if names_classes(task):
        if config.labels is not None:
            _name_outputs(model, config.labels, f"{key}.labels")
        check_labels(None, model, labels, warn=False, who=("", key))  # it is, beside the student
        _check_outputs(model, task, key)
    elif config.labels is not None:
        outputs = "tokens" if predicts_tokens(task) else task.outputs
        raise idle(f"{key}.labels", config.labels, f"{task.name}, whose outputs are {outputs}", "train a classifier")
    tokenizer = load_processor(config.path, f"{key}.path", task)
    return LiveTeacher(model, task, tokenizer, remember=config.remember, key=key)


def _name_outputs(model: nn.Module, names: list[str], key: str) -> None:
    """Have the outputs of a teacher be called by ``names``.

    Raises:
        UserError: if they are not one for each.
    """
    config: Any = model.config
    if len(names) != config.num_labels or len(set(names)) < len(names):
        problem = f"must name each of the teacher's {config.num_labels} classes once"
        hint = f"it calls them {', '.join(label_names(model) or ())}: give the data's names in this order"
        raise UserError(problem, key=key, value=names, hint=hint)
    config.id2label, config.label2id = dict(enumerate(names)), {name: i for i, name in enumerate(names)}


def _check_outputs(model: nn.Module, task: TextTask, key: str) -> None:
    """Refuse a head that was trained for outputs of another kind: a softmax of several yes and no says little.

    Raises:
        UserError: naming both.
    """
    trained, wanted = getattr(model.config, "problem_type", None), task.head_config().get("problem_type")
    if trained and wanted and trained != wanted:
        hint = (
            "name a teacher of this task, or take its own; if its config.json is wrong, correct problem_type in a copy"
        )
        raise UserError(f"was trained for {trained}, and would be used for {wanted}", key=key, hint=hint)
