"""The run's history in ``metrics.csv``, the one that is complete whatever happens to the run."""

from __future__ import annotations

import csv
import io
import warnings
from argparse import Namespace
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import Logger

from distill.core.utils.files import replace, sync
from distill.run.history import iterate_rows, read_rows
from distill.run.loggers.fail_safe import FailSafe

__all__ = ["CsvLogger"]


class CsvLogger(FailSafe, Logger):
    """Appends to ``metrics.csv``; Lightning's own empties the file of an existing folder.

    Its column ``step`` counts the optimizer steps done, as the console and the checkpoints' names do. Lightning
    gives its loggers the number of the step, from 0: that is ``trainer/global_step`` in TensorBoard and W&B.

    A run that was killed and resumed leaves the same bytes as one that was not: rows after the checkpoint are dropped,
    with the columns that only they had, and logged again.

    Args:
        folder: The run's folder.
        at: The optimizer step that a resumed run starts from; ``None`` keeps whatever rows are there.
    """

    label = "metrics.csv"

    def __init__(self, folder: str | Path, at: int | None = None) -> None:
        super().__init__()
        self.path = Path(folder) / "metrics.csv"
        self._waiting: list[dict[str, Any]] = []
        self._columns: list[str] = []
        self._size = 0  # of what was written completely
        self._durable = True
        self._told = False
        self._try("read what it holds", lambda: self._resume(at))

    @property
    def name(self) -> str:
        return "csv"

    @property
    def version(self) -> str:
        return ""

    @property
    def save_dir(self) -> str:
        return str(self.path.parent)

    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Nothing: the run's ``config.yaml`` holds them."""

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        def take() -> None:
            done = None if step is None else step + 1
            # In an order of their own: Lightning's depends on whether a sanity check came before.
            self._waiting.append({"step": done, **{name: float(metrics[name]) for name in sorted(metrics)}})

        self._try("take a row", take)

    def save(self) -> None:
        """Write what waits, for the system to keep should this process be killed.

        Lightning calls this after every row, when to wait for the disk would hold up the step. Called with nothing
        waiting, as before a checkpoint, it does wait: then the rows survive the machine too.
        """
        try:
            if self._waiting:
                self._write()
            elif not self._durable:
                for path in (self.path, self.path.parent):
                    sync(path)
                self._durable = True
        except OSError as error:
            if not self._told:
                warnings.warn(f"{self.path} could not be written ({error}); its rows wait in memory.", stacklevel=2)
            self._told = True

    def finalize(self, status: str) -> None:
        self.save()
        self.save()

    def _write(self) -> None:
        new = dict.fromkeys(name for row in self._waiting for name in row if name not in self._columns)
        if new:
            self._replace(chain(read_rows(self.path, self._size), self._waiting), [*self._columns, *new])
        else:
            with self.path.open("r+b") as file:
                file.seek(self._size)  # over what a write that failed may have left
                file.write(_text(self._waiting, self._columns))
                file.truncate()
                self._size = file.tell()
            self._durable = False
        self._waiting = []

    def _resume(self, at: int | None) -> None:
        if not self.path.is_file():
            return

        def is_kept(row: Mapping[str, str]) -> bool:
            return at is None or not row["step"] or int(row["step"]) <= at

        used: dict[str, bool] = {}  # the columns of the file, in its order: does a row that is kept say something there
        beyond = False
        try:
            for row in iterate_rows(self.path):
                if is_kept(row):
                    used = {name: name == "step" or bool(row[name]) or used.get(name, False) for name in row}
                else:
                    beyond = True
        except ValueError as error:
            if not beyond:
                warnings.warn(f"{error}: the history that was written after it is lost.", stacklevel=2)
        if used:
            self._replace(filter(is_kept, read_rows(self.path)), [name for name, has in used.items() if has])
        else:
            self.path.unlink()

    def _replace(self, rows: Iterable[Mapping[str, Any]], columns: list[str]) -> None:
        """Write the whole file, so that a kill leaves the old one or the new one."""
        text = _text(chain([dict(zip(columns, columns, strict=True))], rows), columns)
        replace(self.path, text)
        self._columns, self._size, self._durable = columns, len(text), False


def _text(rows: Iterable[Mapping[str, Any]], columns: Sequence[str]) -> bytes:
    text = io.StringIO(newline="")
    csv.DictWriter(text, columns, extrasaction="ignore", lineterminator="\n").writerows(rows)
    return text.getvalue().encode()
