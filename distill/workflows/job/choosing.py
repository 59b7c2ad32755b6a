"""By which metric a run chooses its best student: the task's own, or that of a ``BestCheckpoint`` of the user's."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from pytorch_lightning import Callback

from distill.callbacks import BestCheckpoint
from distill.callbacks.best_checkpoint import direction
from distill.core.ranks import is_rank_zero
from distill.core.task import Task
from distill.core.utils.errors import UserError, nearest
from distill.training.module import Distillation

__all__ = ["FILES", "choose_by", "choosing", "chosen_again", "chosen_by", "compared"]

_log = logging.getLogger(__name__)

FILES = "best-{step}"
"""What the best checkpoints of a run are called."""

_PREFIX = "val/"

_AGREEMENT = "agreement"


def choosing(callbacks: Sequence[Callback]) -> int | None:
    """The place of the callback that chooses a run's best student, of those that the user named."""
    return next((place for place, one in enumerate(callbacks) if isinstance(one, BestCheckpoint)), None)


def chosen_by(task: Task, callbacks: Sequence[Any]) -> str:
    """The metric that chose the best student, of a run whose ``callbacks`` these are."""
    best = next((one for one in callbacks if isinstance(one, BestCheckpoint) and one.monitor), None)
    return task.monitor if best is None else str(best.monitor).removeprefix(_PREFIX)


def compared(module: Distillation, data: Any, callbacks: Sequence[Callback]) -> tuple[str, ...]:
    """What the user's ``BestCheckpoint`` asks for, and a validation measures, of student and teacher beside each other.

    That is ``agreement``, of which more is better, unless there is no teacher that runs, it reads other tokens, or
    predictions are no classes. Of no other run is the task asked how it predicts.
    """
    teacher, task, place = module.teacher, module.task, choosing(callbacks)
    asked = place is not None and str(getattr(callbacks[place], "monitor", "")).removeprefix(_PREFIX) == _AGREEMENT
    runs = teacher is not None and teacher.known_scores is None and not getattr(data, "teacher_tokenizer", None)
    return (_AGREEMENT,) if asked and runs and task.outputs != "vectors" and _predicts_classes(task) else ()


def _predicts_classes(task: Task) -> bool:
    try:
        return task.predict(torch.zeros(1, 2, 2)) is not None
    except (IndexError, RuntimeError):  # one that reads more classes than these two
        return True


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
    usual = "max" if name in beside else direction(task, name)
    given = best.given_mode
    if best.monitor is None and (given, usual) == ("min", "max"):
        # Configurations of before 0.2 have it written out, as Lightning's default.
        if is_rank_zero():
            _log.warning("%s.mode: min is not heeded without a monitor: of %s, more is better", key, name)
        given = None
    if given is None and usual is None:
        raise UserError(f"nothing says whether more of {name} is better", key=f"{key}.mode", hint="write max or min")
    mode = given or str(usual)
    if usual not in (None, mode):
        problem = f"of {name}, {'more' if usual == 'max' else 'less'} is better"
        hint = f"write {usual}" if best.monitor else f"leave it out, or name another metric: {key}.monitor"
        raise UserError(problem, key=f"{key}.mode", value=mode, hint=hint)
    best.watch(f"{_PREFIX}{name}", mode)
    if name not in beside:
        task.monitor, task.mode = name, mode


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
                task.monitor, task.mode = name, str(given.get("mode") or direction(task, name) or "min")
            return
