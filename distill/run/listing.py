"""The runs below a folder: what became of each, read off the small files of its own folder. Light: no torch."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from distill.config.header import refuse_old
from distill.core.utils.console import duration, number, plain_table, wide
from distill.core.utils.errors import UserError
from distill.core.utils.json_file import Unreadable, number_at, read_mapping
from distill.core.utils.paths import at_home
from distill.core.utils.visible import visible
from distill.core.verdict import Verdict
from distill.run.checkpoints.names import resume_checkpoints
from distill.run.folder import Run
from distill.run.history import iterate_rows

__all__ = ["Summary", "find_runs", "read_json", "show_runs", "summary"]

_DEPTH = 2  # FOLDER/<name>/<id>


@dataclass(frozen=True, kw_only=True)
class Summary:
    """One run as it is listed.

    Attributes:
        folder: Its folder, as other commands take it.
        name: The run's name.
        id: The run's id.
        state: ``running``, ``finished``, ``failed`` or ``interrupted``.
        step: Optimizer steps done, of an interrupted run those that it resumes from; ``None`` before the first.
        total_steps: What it was to do; ``None`` where that is not known.
        monitor: The metric by which the best student is chosen.
        value: That of the student that was saved; of an unfinished run, the best validation so far.
        train_seconds: How long it trained; known of a finished run.
        started: When, in seconds since the epoch.
        note: Why it failed, what must be said of its outcome, or what of it cannot be read.
    """

    folder: str
    name: str
    id: str
    state: str
    step: int | None = None
    total_steps: int | None = None
    monitor: str | None = None
    value: float | None = None
    train_seconds: float | None = None
    started: float = 0.0
    note: str = ""

    def as_json(self) -> dict[str, Any]:
        """What ``--json`` prints, the time as ISO 8601 in UTC."""
        when = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self.started))
        return asdict(self) | {"started": when}


def find_runs(folder: Path) -> list[Path]:
    """The runs' folders: ``folder`` itself, or what lies one or two levels below it.

    Raises:
        UserError: if there is no such folder.
    """
    if not folder.is_dir():
        raise UserError("no such folder", key="FOLDER", value=str(folder), hint="name the folder of your runs")
    return sorted(_below(folder, _DEPTH))


def _below(folder: Path, depth: int) -> Iterator[Path]:
    inside: list[Path] = []
    try:
        if (folder / "config.yaml").is_file():
            yield folder  # what lies in a run is its own
        elif depth:
            inside = [path for path in folder.iterdir() if not path.name.startswith(".") and path.is_dir()]
    except OSError:  # not ours to read
        return
    for path in inside:
        yield from _below(path, depth - 1)


def read_json(file: Path) -> tuple[dict[str, Any], str]:
    """The mapping that ``file`` holds, and what is wrong with the file; an absent one is empty and right."""
    try:
        return read_mapping(file), ""
    except FileNotFoundError:
        return {}, ""
    except Unreadable:
        return {}, f"{file.name} cannot be read"


def summary(folder: Path) -> Summary:
    """What became of the run in ``folder``. Files that cannot be read are reported, and hide nothing else."""
    run = Run(folder.absolute())
    result, broken_result = read_json(run.result_file)
    failure, broken_failure = read_json(run.failure_file)
    plan, broken_plan = read_json(run.folder / "plan.json")
    monitor, mode = (str({**plan, **result}.get(key) or "") for key in ("monitor", "mode"))
    if result:
        step, broken_metrics = _as_int(number_at(result, "steps")), ""
        value = number_at(result, "scores", "student", monitor)
    else:
        step, value, broken_metrics = _history(run.folder / "metrics.csv", f"val/{monitor}", mode)
    state = run.state
    if state == "interrupted":
        step = max(resume_checkpoints(run.checkpoints), default=step)
    message = str(failure.get("message", "")) if state == "failed" else ""
    notes = [_of_old(run), message, *Verdict.of_file(result).bad, broken_result, broken_failure, broken_plan]
    return Summary(
        folder=str(folder),
        name=run.name,
        id=run.id,
        state=state,
        step=step,
        total_steps=_as_int(number_at(plan, "total_steps")),
        monitor=monitor or None,
        value=value,
        train_seconds=number_at(result, "train_seconds"),
        started=_started(run, number_at(plan, "started")),
        note="; ".join(note for note in [*notes, broken_metrics] if note),
    )


def _of_old(run: Run) -> str:
    """What is noted of a run of an earlier version; its figures are listed all the same."""
    try:
        refuse_old(run.config_file, "")
    except UserError as error:
        return error.problem
    return ""


def _as_int(value: float | None) -> int | None:
    return None if value is None else int(value)


def _started(run: Run, planned: float | None) -> float:
    """When the run was started: its plan says so, or its id, unless the user chose that."""
    if planned is not None and 0 <= planned < 1 << 36:
        return planned
    try:
        return time.mktime(time.strptime(run.id[:15], "%Y%m%d-%H%M%S"))
    except ValueError:
        return run.config_file.stat().st_mtime


def _history(file: Path, column: str, mode: str) -> tuple[int | None, float | None, str]:
    """The last step, the best finite value of ``column``, and what is wrong with the file."""
    step, best, better = None, None, max if mode == "max" else min
    try:
        for row in iterate_rows(file):
            step = int(row["step"]) if row["step"] else step
            if mode and row.get(column) and math.isfinite(value := float(row[column])):
                best = value if best is None else better(best, value)
    except (OSError, KeyError, ValueError):
        return step, best, f"{file.name} cannot be read"
    return step, best, ""


def show_runs(folder: str | Path, *, as_json: bool = False, console: Console | None = None) -> None:
    """Print the runs below ``folder``, oldest first.

    Raises:
        UserError: if there is no such folder.
    """
    found = sorted((summary(path) for path in find_runs(at_home(folder))), key=lambda s: (s.started, s.folder))
    if as_json:
        print(json.dumps([s.as_json() for s in found], indent=2, allow_nan=False))
    elif not found:
        print(visible(f"no runs below {folder}"))
    else:
        _show(found, console or wide())


def _show(found: Sequence[Summary], console: Console) -> None:
    table = plain_table()
    for name in ("run", "state", "step", "best", "train time", "started"):
        table.add_column(name, justify="right" if name in ("step", "train time") else "left", overflow="fold")
    if noted := any(s.note for s in found):
        table.add_column("note", overflow="fold")
    for s in found:
        step = "" if s.step is None else f"{s.step:,}"
        table.add_row(
            escape(s.folder),
            s.state,
            f"{step} of {s.total_steps:,}" if step and s.total_steps and s.state != "finished" else step,
            "" if s.value is None else f"{s.monitor} {number(s.value)}",
            "" if s.train_seconds is None else duration(s.train_seconds),
            time.strftime("%Y-%m-%d %H:%M", time.localtime(s.started)),
            *([escape(s.note)] if noted else []),
        )
    console.print(table)
