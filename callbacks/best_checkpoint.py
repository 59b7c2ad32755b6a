"""The checkpoint of the best validation."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pytorch_lightning import LightningModule, Trainer

from distill.compression.base import compressions
from distill.core.internals.lightning import CheckpointOnCondition
from distill.core.ranks import is_rank_zero
from distill.core.task import Task
from distill.core.trained_module import task_of, total_steps
from distill.core.utils.errors import UserError
from distill.core.utils.visible import visible

__all__ = ["BestCheckpoint", "direction", "within"]

_log = logging.getLogger(__name__)

_PATHS = ("best_model_path", "kth_best_model_path", "last_model_path")


def within(state: Mapping[str, Any], folder: str | Path | None) -> dict[str, Any]:
    """The state of a ``ModelCheckpoint`` with every file that it names in ``folder``.

    These files are removed when better ones come, so a checkpoint may not say that they lie elsewhere; and a run's
    folder may have been moved. A warning names those that are looked for in ``folder`` instead.
    """
    place = str(folder or "")
    elsewhere: dict[str, None] = {}  # a set that keeps its order

    def own(path: str) -> str:
        was = state["dirpath"]
        part = os.path.normpath(os.path.relpath(path, was) if was and os.path.isabs(path) else path)
        if not _inside(os.path.join(place, part), place):
            part = os.path.basename(part)
        if path and not (_inside(os.path.join(was or place, path), place) or os.path.exists(os.path.join(place, part))):
            elsewhere[path] = None  # and no run that was moved or copied, whose files lie in its new place
        return "" if part in ("", ".", "..") else os.path.join(place, part)

    paths = {name: own(state[name]) for name in _PATHS}
    scores = {own(path): score for path, score in state["best_k_models"].items() if own(path)}
    if elsewhere and is_rank_zero():
        message = "the checkpoint names files outside of %s, and these are not followed: %s"
        _log.warning(message, place, visible(", ".join(elsewhere)))
    return {**state, **paths, "best_k_models": scores, "dirpath": folder}


def _inside(path: str, folder: str) -> bool:
    """Whether ``path`` lies below ``folder``, wherever links lead."""
    above, root = os.path.realpath(os.path.dirname(path)), os.path.realpath(folder)
    return os.path.commonpath([above, root]) == root


def direction(task: Task, name: str) -> str | None:
    """``max`` or ``min``, as a task's metric is better; ``None`` where nothing says it."""
    if name == task.monitor:
        return task.mode
    higher = getattr(task.metrics().get(name), "higher_is_better", None)
    return None if higher is None else "max" if higher else "min"


class BestCheckpoint(CheckpointOnCondition):
    """A ``ModelCheckpoint`` for which only a student that is as small as asked for can be the best.

    A student half way through gradual pruning is often better than the one saved at the end; kept as the best, it
    would be saved in its place.

    Its state names files and no folders, so that a run's folder may be moved.

    Args:
        dirpath: As of Lightning's ``ModelCheckpoint``.
        filename: Likewise.
        monitor: Likewise; the task's own metric if not given. Without task or validation the newest is kept.
        mode: ``min`` or ``max``; that in which the metric is better, if not given. Of losses that is ``min``.
        kwargs: What else Lightning's takes.

    Raises:
        UserError: when a training begins, if no mode is given and nothing says in which direction the metric is better.
    """

    def __init__(
        self,
        dirpath: str | Path | None = None,
        filename: str | None = None,
        monitor: str | None = None,
        *,
        mode: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(dirpath, filename, monitor, mode=mode or "min", **kwargs)
        self.given_mode = mode

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "fit":
            self._settle(task_of(pl_module), validates=trainer.enable_validation)
        super().setup(trainer, pl_module, stage)

    def _settle(self, task: Task | None, *, validates: bool) -> None:
        """Take metric and direction of the task, where they are not given."""
        if self.monitor is None and task is not None and validates:
            if self.given_mode not in (None, task.mode):
                problem = f"of {task.monitor}, {'more' if task.mode == 'max' else 'less'} is better"
                hint = "leave it out, or name another metric as monitor"
                raise UserError(problem, key="BestCheckpoint(mode)", value=self.given_mode, hint=hint)
            self.watch(f"val/{task.monitor}", task.mode)
        elif self.monitor is not None and self.given_mode is None:
            mode = self._usual(task, self.monitor.removeprefix("val/"))
            if mode is None:
                problem = f"nothing says whether more of {self.monitor} is better"
                raise UserError(problem, key="BestCheckpoint(mode)", hint="write max or min")
            if mode != self.mode:  # else what a training found before is kept
                self.watch(self.monitor, mode)

    @staticmethod
    def _usual(task: Task | None, name: str) -> str | None:
        if name.endswith("loss"):
            return "min"
        return "max" if name == "agreement" else None if task is None else direction(task, name)

    def ready(self, trainer: Trainer) -> bool:
        total = total_steps(trainer.lightning_module)
        return all(compression.target_reached(trainer.global_step, total) for compression in compressions(trainer))

    def state_dict(self) -> dict[str, Any]:
        state = super().state_dict()
        state |= {name: self._part(state[name]) for name in _PATHS}
        scores = {self._part(path): score for path, score in state["best_k_models"].items()}
        return state | {"best_k_models": scores, "dirpath": ""}

    def _part(self, path: str) -> str:
        return os.path.relpath(path, self.dirpath) if path else ""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(within(state_dict, self.dirpath))
        self.current_score = state_dict["current_score"]  # which Lightning saves but does not load
