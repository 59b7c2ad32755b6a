"""By which metric a run chooses its best student: the task's own, or that of a ``BestCheckpoint`` of the user's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pytorch_lightning import Callback

from distill.callbacks import BestCheckpoint
from distill.core.task import Task
from distill.core.utils.errors import UserError, nearest

__all__ = ["FILES", "choose_by", "choosing", "chosen_again"]

FILES = "best-{step}"
"""What the best checkpoints of a run are called."""

_PREFIX = "val/"


def choosing(callbacks: Sequence[Callback]) -> int | None:
    """The place of the callback that chooses a run's best student, of those that the user named."""
    return next((place for place, one in enumerate(callbacks) if isinstance(one, BestCheckpoint)), None)


def choose_by(task: Task, callbacks: Sequence[Callback]) -> None:
    """Have the task judged by the metric that the user's ``BestCheckpoint`` chooses by.

    All that speaks of the outcome reads it there. A callback that says none gets the task's.

    Args:
        task: Of the run; changed in place.
        callbacks: That the user named.

    Raises:
        UserError: the metric is none of the task's, or the mode takes the worst for the best.
    """
    place = choosing(callbacks)
    if place is None:
        return
    best = callbacks[place]
    assert isinstance(best, BestCheckpoint)
    if best.filename is None:
        best.call(FILES)
    if best.monitor is None:
        best.watch(f"{_PREFIX}{task.monitor}", task.mode)
        return
    key, metrics = f"callbacks.{place}", task.metrics()
    name = best.monitor.removeprefix(_PREFIX)
    if name not in metrics:
        problem = f"the best student is chosen by a validation metric of {task.name}"
        hint = nearest(best.monitor, [f"{_PREFIX}{metric}" for metric in metrics])
        raise UserError(problem, key=f"{key}.monitor", value=best.monitor, hint=hint)
    usual = _direction(task, name)
    if usual not in (None, best.mode):
        problem = f"of {name}, {'more' if usual == 'max' else 'less'} is better"
        raise UserError(problem, key=f"{key}.mode", value=best.mode, hint=f"write {usual}")
    best.monitor = f"{_PREFIX}{name}"
    if (name, best.mode) != (task.monitor, task.mode):
        task.monitor, task.mode = name, best.mode


def _direction(task: Task, name: str) -> str | None:
    """``max`` or ``min``, as it is better; ``None`` where a metric of the user's own does not say."""
    if name == task.monitor:
        return task.mode
    higher = task.metrics()[name].higher_is_better
    return None if higher is None else "max" if higher else "min"


def chosen_again(task: Task, callbacks: Any) -> None:
    """Likewise for a run that is opened again, whose ``callbacks`` are those of its configuration and are not made."""
    for one in callbacks if isinstance(callbacks, list) else ():
        path, given = (one.get("class_path"), one.get("init_args")) if isinstance(one, Mapping) else (one, None)
        if str(path).rpartition(".")[2] == BestCheckpoint.__name__:
            given = given if isinstance(given, Mapping) else {}
            name = str(given.get("monitor")).removeprefix(_PREFIX)
            if name in task.metrics():
                task.monitor, task.mode = name, str(given.get("mode") or "min")
            return
