"""Commands run in forks of this process, and the moments at which they are killed."""

from __future__ import annotations

import os
import random
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import torch

import distill.core.utils.files
import distill.run.checkpoints.sealed
import distill.workflows.search.run
import distill.workflows.sensitivity
import distill.workflows.sweep.run
from distill.cli.main import main as command
from distill.compression.sensitivity import scan
from distill.compression.sensitivity.tried import Tried
from distill.core.utils import replacing
from distill.export import student as student_export
from distill.models import saved_student
from distill.run.folder import Run
from distill.training.module import Distillation
from distill.workflows.search.study import Study

__all__ = [
    "EXPORT",
    "FIT",
    "QUANTIZE",
    "SCAN",
    "SEARCH",
    "SWEEP",
    "TRACEBACK",
    "WRONG",
    "Kill",
    "Moments",
    "attempt",
    "draw_kill",
]

TRACEBACK = 70
"""The exit code of a command that ended with a traceback."""

WRONG = "wrong.txt"
"""Lists the trials of sweeps that neither ended well, nor were killed, nor were told to wait."""


def nothing(*given: Any, **named: Any) -> None:
    """Done before the end: death comes before the call."""


def all_of_it(original: Callable[..., object], *given: Any, **named: Any) -> None:
    """Done before the end: death comes after the call."""
    original(*given, **named)


def half_of_it(original: Callable[..., object], file: Any, data: bytes) -> None:
    """Done before the end: half of the bytes are handed to the system."""
    original(file, data[: len(data) // 2])
    file.file.flush()


@dataclass(frozen=True)
class Kill:
    """One SIGKILL.

    Attributes:
        prepare: Called in the process that is to die, which then kills itself.
        after: Seconds after which it is killed from outside; ``None`` if it is not.
        group: Whether the processes that it has started are killed too.
    """

    prepare: Callable[[], None] = nothing
    after: float | None = None
    group: bool = True


Moment = Callable[[random.Random, float], Kill]
"""Of a command that takes so many seconds."""


# ---------------------------------------------------------------------- moments


def die_at(owner: Any, name: str, seconds: float, calls: int, doing: Callable[..., object]) -> None:
    """Die in ``owner.name``, so many seconds from now and then so many calls later.

    Args:
        owner: A module or class.
        name: A function of it.
        seconds: From now.
        calls: To let pass after that.
        doing: What is done before the end, given the function and its arguments.
    """
    original, begin, left = getattr(owner, name), time.monotonic() + seconds, iter(range(calls))

    def doomed(*given: Any, **named: Any) -> Any:
        if time.monotonic() > begin and next(left, None) is None:
            doing(original, *given, **named)
            signal.raise_signal(signal.SIGKILL)
        return original(*given, **named)

    setattr(owner, name, doomed)


def around(draw: random.Random, places: Sequence[tuple[Any, str]], seconds: float = 0.0, most: int = 0) -> Kill:
    """Just before or just after a call of one of ``places``, the first or one of those that follow."""
    owner, name = draw.choice(places)
    calls, doing = draw.randint(0, most), draw.choice([nothing, all_of_it])
    return Kill(prepare=lambda: die_at(owner, name, seconds, calls, doing))


def any_time(draw: random.Random, seconds: float) -> Kill:
    return Kill(after=draw.uniform(0, seconds))


def sweep_alone(draw: random.Random, seconds: float) -> Kill:
    """Its trial continues to its end without it."""
    return Kill(after=draw.uniform(0, seconds), group=False)


def checkpoint(draw: random.Random, seconds: float) -> Kill:
    """With a part of it written, or with all of it under its temporary name, or just after it took its own."""
    when, calls = draw.uniform(0, seconds), draw.randint(0, 100)
    if draw.random() < 0.6:
        return Kill(prepare=lambda: die_at(distill.run.checkpoints.sealed._Sealed, "write", when, calls, half_of_it))
    return around(draw, [(os, "replace")], when)


def validation(draw: random.Random, seconds: float) -> Kill:
    return around(draw, [(Distillation, "validation_step")], draw.uniform(0, seconds))


def end(draw: random.Random, seconds: float) -> Kill:
    """Before or after the student is written, takes its place, or the result is written."""
    return around(draw, [(saved_student, "_write"), (saved_student, "save"), (Run, "write_result")])


def written(draw: random.Random, seconds: float) -> Kill:
    """Around the parts of an export, of which not all are there yet."""
    places = [
        (student_export, "write"),
        (student_export, "write_beside"),
        (student_export, "sizes"),
    ]
    return around(draw, places)


def placed(draw: random.Random, seconds: float) -> Kill:
    """As the new folder is put on the disk, and takes its place."""
    return around(draw, [(replacing, "_sync"), (replacing, "_swap"), (replacing, "_take"), (Path, "rename")])


def small_file(draw: random.Random, seconds: float) -> Kill:
    return around(draw, [(os, "replace"), (distill.core.utils.files, "sync")], most=2)


def tried(draw: random.Random, seconds: float) -> Kill:
    """After a point of a scan was kept, or before."""
    return around(draw, [(Tried, "add")], most=15)


def table(draw: random.Random, seconds: float) -> Kill:
    return around(
        draw, [(scan, "write"), (scan, "draw"), (distill.workflows.sensitivity, "replace"), (Tried, "remove")]
    )


def noted(draw: random.Random, seconds: float) -> Kill:
    """Around what a search keeps of its trials, alone and between them."""
    search = distill.workflows.search.run
    places = [(Study, "next"), (Study, "note"), (Study, "end"), (search, "write_record"), (search, "write_front")]
    return around(draw, places, most=3)


Moments = Mapping[Moment, int]
"""What may happen to a command, and how often."""

FIT: Moments = {any_time: 6, checkpoint: 5, validation: 2, end: 3, placed: 1}
QUANTIZE: Moments = {any_time: 4, end: 3, placed: 3, small_file: 2}
EXPORT: Moments = {any_time: 4, written: 3, placed: 3}
SCAN: Moments = {any_time: 3, tried: 3, table: 3}
SEARCH: Moments = {any_time: 2, noted: 3}
SWEEP: Moments = {any_time: 4, sweep_alone: 2, small_file: 1, checkpoint: 2, end: 1, placed: 1}


def draw_kill(draw: random.Random, moments: Moments, seconds: float) -> tuple[str, Kill]:
    """One of the moments, by name, of a command that takes so many seconds."""
    [moment] = draw.choices(list(moments), list(moments.values()))
    return moment.__name__, moment(draw, seconds)


# ---------------------------------------------------------------------- forks


def attempt(argv: Sequence[str], folder: Path, kill: Kill | None = None) -> int:
    """Run the command in a fork of this process, and wait for all that it has started.

    Returns:
        Its exit code: -9 if it was killed, :data:`TRACEBACK` if it ended with one.
    """
    kill = kill or Kill()
    reads, writes = os.pipe()  # which ends for the reader when the last process that has inherited it does
    child = os.fork()
    if not child:
        _work(argv, folder, kill.prepare)
    os.setpgid(child, child)
    os.close(writes)
    code = _wait(child, kill)
    os.read(reads, 1)
    os.close(reads)
    return code


def _wait(child: int, kill: Kill) -> int:
    if kill.after is not None:
        watched = os.pidfd_open(child)
        if not select.select([watched], [], [], kill.after)[0]:
            (os.killpg if kill.group else os.kill)(child, signal.SIGKILL)
        os.close(watched)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _work(argv: Sequence[str], folder: Path, prepare: Callable[[], None] = nothing) -> None:
    """What a fork does; it does not return."""
    code = TRACEBACK
    try:
        log = os.open(folder / "log.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.chdir(folder)
        torch.set_num_threads(1)  # a fork has none of its parent's
        datasets.config.HF_DATASETS_CACHE = folder / "cache"
        for several in (distill.workflows.sweep.run, distill.workflows.search.run):
            vars(several)["run_to_end"] = lambda words: _trial(words, folder)
        prepare()
        print(f"$ distill {' '.join(argv)}", flush=True)
        code = command(argv)
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _trial(words: Sequence[str], folder: Path) -> int:
    """What a sweep or a search does for a trial: a fork here, as a new process would import everything."""
    sys.stdout.flush()
    child = os.fork()
    if not child:
        _work(words[3:], folder)  # after `python -m distill.cli`
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code not in (0, -signal.SIGKILL):
        with (folder / WRONG).open("a") as file:
            file.write(f"{' '.join(words)}: exit code {code}\n")
    return code
