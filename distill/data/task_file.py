"""How a saved model reads texts: its task, the columns it was trained on, and the length to which texts are cut."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from distill.core.task import TextTask
from distill.core.utils.errors import UserError
from distill.core.utils.json_file import Unreadable, read_mapping
from distill.data.routes import ROLE
from distill.data.text import TextData
from distill.tasks import TASKS

__all__ = ["TASK_FILE", "TaskFile", "read_task_file", "task_file"]

TASK_FILE = "task.json"
"""Lies beside a saved student and every export, so that either can be used without the run that made it."""

_NOT_OF_THE_STUDENT = ("images", "stochastic", "labels", "side", "monitor", "teacher_system", "teacher_tokenizer")


@dataclass(frozen=True)
class TaskFile:
    """What a folder with a model says of the texts that it was trained on.

    Attributes:
        task: The name of a text task.
        max_length: Most tokens of a sample; longer ones are cut.
        columns: Role (``text``, ``text_pair``) -> the column of the training data.
        settings: The task's arguments besides its classes (``threshold``).
    """

    task: str
    max_length: int
    columns: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, data: Any) -> TaskFile | None:
        """How the models of ``data`` read; ``None`` where that is not text, or a task of the user's own."""
        if not isinstance(data, TextData) or type(data.task) is not TASKS.get(data.task.name):
            return None
        given = {name: value for name, value in vars(data.task).items() if name not in _NOT_OF_THE_STUDENT}
        columns = {role: name for role, name in data.training_columns.items() if role not in (*data.task.sought, ROLE)}
        if data.task.forms:  # what a model is asked is a text, whatever it was trained on
            asked = columns.get("text") or columns.get("prompt")
            columns = {"text": asked} if asked else {}
        return cls(data.task.name, data.longest[1], columns, given)

    def text(self) -> str:
        """The content of the file :data:`TASK_FILE`."""
        return json.dumps(asdict(self), indent=2) + "\n"

    def make_task(self, labels: Sequence[str] | None) -> TextTask:
        """The task, with these classes."""
        kind: Any = TASKS[self.task]
        task: TextTask = kind(labels, **self.settings)
        return task


def task_file(data: Any) -> dict[str, str]:
    """Name -> content of the file that says how a model of ``data`` reads; none where that is not text."""
    file = TaskFile.of(data)
    return {} if file is None else {TASK_FILE: file.text()}


def read_task_file(folder: Path, key: str) -> TaskFile | None:
    """What ``folder`` says; ``None`` where no such file lies in it.

    Raises:
        UserError: if the file says something else.
    """
    try:
        found = read_mapping(folder / TASK_FILE)
        file = TaskFile(**found)
        if not _sound(file):
            raise ValueError("it is not as it was written")
        file.make_task(["a", "b"])  # which judges its settings
    except FileNotFoundError:
        return None
    except (Unreadable, TypeError, ValueError, UserError) as error:
        problem = str(error) if isinstance(error, Unreadable) else f"cannot be used ({error})"
        hint = "remove it, and the model is read by its config.json alone"
        raise UserError(f"{TASK_FILE} {problem}", key=key, value=str(folder), hint=hint) from None
    return file


def _sound(file: TaskFile) -> bool:
    known = TASKS.get(file.task) if isinstance(file.task, str) else None
    length = file.max_length
    mappings = isinstance(file.columns, dict) and isinstance(file.settings, dict)
    counted = isinstance(length, int) and not isinstance(length, bool) and length > 0
    return bool(
        known
        and issubclass(known, TextTask)
        and counted
        and mappings
        and file.columns.keys() <= known.columns.keys()
        and all(isinstance(column, str) for column in file.columns.values())
    )
