"""By which metric a run chooses its best student: the task's own, or that of a ``BestCheckpoint`` of the user's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from pytorch_lightning import Callback

from distill.callbacks import BestCheckpoint
from distill.core.task import Task
from distill.core.utils.errors import UserError, nearest
from distill.training.module import Distillation

__all__ = ["FILES", "choose_by", "choosing", "chosen_again", "chosen_by", "compared"]

FILES = "best-{step}"
"""What the best checkpoints of a run are called."""

_PREFIX = "val/"


def choosing(callbacks: Sequence[Callback]) -> int | None:
    """The place of the callback that chooses a run's best student, of those that the user named."""
    return next((place for place, one in enumerate(callbacks) if isinstance(one, BestCheckpoint)), None)


def chosen_by(task: Task, callbacks: Sequence[Any]) -> str:
    """The metric that chose the best student, of a run whose ``callbacks`` these are."""
    best = next((one for one in callbacks if isinstance(one, BestCheckpoint) and one.monitor), None)
    return task.monitor if best is None else str(best.monitor).removeprefix(_PREFIX)


def compared(module: Distillation, data: Any) -> tuple[str, ...]:
    """What a validation measures of student and teacher beside each other, in which more is better: ``agreement``,
    unless there is no teacher that runs, it reads other tokens, or predictions are no classes."""
    teacher, task = module.teacher, module.task
    runs = teacher is not None and teacher.known_scores is None and not getattr(data, "teacher_tokenizer", None)
    classes = task.outputs != "vectors" and task.predict(torch.zeros(1, 2, 2)) is not None
    return ("agreement",) if runs and classes else ()


def choose_by(task: Task, callbacks: Sequence[Callback], beside: Sequence[str] = ()) -> None:
    """Have the task judged by the metric that the user's ``BestCheckpoint`` chooses by.

    All that speaks of the outcome reads it there. A callback that says none gets the task's. What compares with the
    teacher chooses a student too, but judges none: a run's scores stay the task's.

    Args:
        task: Of the run; changed in place.
        callbacks: That the user named.
        beside: What is measured of student and teacher, as :func:`compared` says.

    Raises:
        UserError: the metric is none that a validation measures, or the mode takes the worst for the best.
    """
    place = choosing(callbacks)
    if place is None:
        return
    best = callbacks[place]
    assert isinstance(best, BestCheckpoint)
    if best.filename is None:
        best.call(FILES)
    key, known = f"callbacks.{place}", [*task.metrics(), *beside]
    name = task.monitor if best.monitor is None else best.monitor.removeprefix(_PREFIX)
    if name not in known:
        problem = f"the best student is chosen by what a validation of this run measures for {task.name}"
        hint = nearest(best.monitor or "", [f"{_PREFIX}{metric}" for metric in known])
        raise UserError(problem, key=f"{key}.monitor", value=best.monitor, hint=hint)
    usual = "max" if name in beside else _direction(task, name)
    if best.given_mode is None and usual is None:
        raise UserError(f"nothing says whether more of {name} is better", key=f"{key}.mode", hint="write max or min")
    mode = best.given_mode or str(usual)
    if usual not in (None, mode):
        problem = f"of {name}, {'more' if usual == 'max' else 'less'} is better"
        hint = f"write {usual}" if best.monitor else f"leave it out, or name another metric: {key}.monitor"
        raise UserError(problem, key=f"{key}.mode", value=mode, hint=hint)
    best.watch(f"{_PREFIX}{name}", mode)
    if name not in beside:
        task.monitor, task.mode = name, mode


def _direction(task: Task, name: str) -> str | None:
    """``max`` or ``min``, as it is better; ``None`` where a metric of the user's own does not say."""
    if name == task.monitor:
        return task.mode
    higher = task.metrics()[name].higher_is_better
    return None if higher is None else "max" if higher else "min"


def chosen_again(task: Task, callbacks: Any, plan: Mapping[str, Any]) -> None:
    """Likewise for a run that is opened again, whose callbacks are not made, as they may be of any class.

    Args:
        task: Changed in place.
        callbacks: Of the run's configuration, where an older run's plan does not say it.
        plan: What ``plan.json`` holds.
    """
    said, mode = plan.get("monitor"), plan.get("mode")
    if isinstance(said, str) and said in task.metrics() and mode in ("min", "max"):
        task.monitor, task.mode = said, str(mode)
        return
    for one in callbacks if isinstance(callbacks, list) else ():
        path, given = (one.get("class_path"), one.get("init_args")) if isinstance(one, Mapping) else (one, None)
        if str(path).rpartition(".")[2] == BestCheckpoint.__name__:
            given = given if isinstance(given, Mapping) else {}
            name = str(given.get("monitor")).removeprefix(_PREFIX)
            if name in task.metrics():
                task.monitor, task.mode = name, str(given.get("mode") or _direction(task, name) or "min")
            return
