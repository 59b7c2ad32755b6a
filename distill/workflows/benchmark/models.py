"""The models that are scored side by side: a run's student, its teacher, and the student without one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from distill.core.task import WritingTask
from distill.core.utils.errors import UserError
from distill.core.utils.paths import at_home
from distill.models.pretrained import load_model, load_tokenizer
from distill.run.baseline import check_baseline, find_baseline, learns_alone
from distill.run.folder import Run
from distill.tasks import TASKS
from distill.workflows.generate import language_model

__all__ = ["Contender", "contenders"]


@dataclass(frozen=True)
class Contender:
    """A model to score.

    Attributes:
        who: ``teacher``, ``alone``, ``student``; ``model`` where it is no run's.
        path: Where it is.
        open: Loads it, with its tokenizer.
    """

    who: str
    path: str
    open: Callable[[], tuple[Any, Any]]


def contenders(
    model: str, beside: str | Path | None = None, alone: bool = False
) -> tuple[Run | None, list[Contender], list[str]]:
    """The run, if ``model`` is one; who is scored, the student last; and what must be said of who is not.

    Args:
        model: A run, a saved student, or a folder of transformers.
        beside: The run of the same student without a teacher; looked for if not given.
        alone: Only the model itself.

    Raises:
        UserError: if this is no run of a language model with a student, or ``beside`` is not to be compared with it.
    """
    if not (at_home(model) / "config.yaml").is_file():
        if beside is not None:
            raise UserError(
                "is of no use beside a model that is no run", key="--beside", value=str(beside), hint="leave it out"
            )
        return None, [Contender("model", model, lambda: _opened(model))], []
    run = Run.open(model, "MODEL")
    config = run.checked_config
    task = config["model"].get("task")
    kind = TASKS.get(task) if isinstance(task, str) else None
    if kind is None or not issubclass(kind, WritingTask) or kind.reads_apart:
        hint = "lm_eval asks causal language models; distill validate scores this one"
        raise UserError(f"its task is {task}, which goes on with no text", key="MODEL", value=model, hint=hint)
    if not run.student.is_dir():
        hint = f"let it finish: distill resume {model}"
        raise UserError("this run has saved no student yet", key="MODEL", value=model, hint=hint)
    found, notes = [Contender("student", model, lambda: _opened(model))], list[str]()
    baseline = None if beside is None else check_baseline(beside, run.config)
    if alone:
        return run, found, notes
    if baseline is None and not learns_alone(config):
        baseline = find_baseline(config)
        notes += [] if baseline else ["no run of this student without a teacher was found; name one by --beside RUN"]
    if baseline is not None:
        twin = str(baseline)
        found.insert(0, Contender("alone", twin, lambda: _opened(twin)))
    teachers = list(_teachers(kind(), config["model"].get("teacher"), notes))
    return run, [*teachers, *found], notes


def _opened(path: str) -> tuple[Any, Any]:
    opened = language_model(path)
    if isinstance(opened.task, WritingTask) and opened.task.reads_apart:
        problem, hint = f"its task is {opened.task.name}, which goes on with no text", "name a causal language model"
        raise UserError(problem, key="MODEL", value=path, hint=hint)
    return opened.model, opened.tokenizer


def _teachers(task: WritingTask, given: Any, notes: list[str]) -> Iterator[Contender]:
    each = [given] if isinstance(given, (str, Mapping)) else list(given) if isinstance(given, Sequence) else []
    for number, one in enumerate(each, 1):
        who = "teacher" if len(each) == 1 else f"teacher {number}"
        path, dtype = (one, None) if isinstance(one, str) else (one.get("path"), one.get("dtype"))
        if not isinstance(path, str):
            notes.append(f"the {who} is not scored: the run's configuration names no model of it")
            continue
        yield Contender(who, path, _loading(task, path, dtype))


def _loading(task: WritingTask, path: str, dtype: str | None) -> Callable[[], tuple[Any, Any]]:
    """Loads a teacher, also of the hub, as a run does."""

    def load() -> tuple[Any, Any]:
        key = "model.teacher.path"
        model: Any = load_model(path, task.auto_model, key, head={}, dtype=dtype, trained=True)
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        return model.to(device).eval(), load_tokenizer(path, key)

    return load
