"""Data that is handed over in Python, as the batches of a task."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from pytorch_lightning import LightningDataModule
from pytorch_lightning.utilities.model_helpers import is_overridden

from distill.core.signals import Batch
from distill.core.task import Task
from distill.core.utils.errors import UserError
from distill.tasks import make_task

__all__ = ["batches_of", "task_of"]

_LOADERS = {"fit": "train_dataloader", "validate": "val_dataloader"}


def task_of(data: Any, task: str | Task | None) -> Task:
    """The task by which ``data`` is read: ``task``, or the data's own, or else :class:`~distill.tasks.Plain`.

    Raises:
        UserError: if no task has this name.
    """
    own = getattr(data, "task", None)
    return make_task(task if task is not None else own if isinstance(own, Task) else "plain", key="task")


def batches_of(data: Any, task: Task, stage: str) -> Callable[[], Iterator[Batch]]:
    """A function that gives the batches of ``data`` from their beginning, at every call.

    Args:
        data: A ``DataLoader``, a list of batches, or a data module.
        task: Makes a :class:`~distill.core.signals.Batch` of what a loader yields.
        stage: Of a data module: ``fit`` takes its training data, ``validate`` its validation data.

    Raises:
        UserError: if it is none of these, or can be read only once.
    """
    loader = data
    if isinstance(data, LightningDataModule):
        if not is_overridden(_LOADERS[stage], data):
            problem = f"{type(data).__name__} has no {_LOADERS[stage]}"
            raise UserError(problem, key="data", hint="give a DataLoader, or a data module that has one")
        data.prepare_data()
        data.setup(stage)
        loader = getattr(data, _LOADERS[stage])()
    if not isinstance(loader, Iterable) or isinstance(loader, (str, bytes)):
        hint = "give a DataLoader, a list of batches, or a data module"
        raise UserError("no batches can be taken from it", key="data", value=type(data).__name__, hint=hint)
    if isinstance(loader, Iterator):
        hint = "give the DataLoader itself, or list(...) of it"
        raise UserError(
            "is read more than once, and this is gone then", key="data", value=type(data).__name__, hint=hint
        )
    return lambda: map(task.batch, loader)
