"""A child process: several model types, one after the other, a line of JSON a cell on its standard output."""

from __future__ import annotations

import faulthandler
import json
import logging
import resource
import signal
import sys
import traceback
import warnings
from typing import Any

import torch

from architectures.cells import CELLS, EXPORT, Wrong
from architectures.tiny import task_of, tiny_model
from distill.errors import UserError

__all__ = ["main"]

MEMORY = 6 << 30  # bytes
SECONDS = 40  # a cell


def main(cases: list[str], export: bool) -> None:
    """Try ``cases`` (``type:task``)."""
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
    faulthandler.enable()
    warnings.simplefilter("ignore")
    logging.disable(logging.ERROR)
    torch.set_num_threads(1)
    signal.signal(signal.SIGALRM, _too_long)
    out, sys.stdout = sys.stdout, sys.stderr
    for case in cases:
        kind, task = case.split(":")
        for cell, state, why in _tried(kind, task, export):
            print(json.dumps({"type": kind, "task": task, "cell": cell, "state": state, "why": why}), file=out)
            out.flush()


def _too_long(*_: Any) -> None:
    raise TimeoutError(f"took more than {SECONDS} s")


def _tried(kind: str, task: str, export: bool) -> Any:
    signal.alarm(SECONDS)
    try:
        model = tiny_model(kind, task)
    except BaseException as error:
        signal.alarm(0)
        yield "model", "none", _line(error)
        return
    unread = ""
    for cell, function in (CELLS | (EXPORT if export else {})).items():
        if unread:  # a run with it ends there
            yield cell, "refused", unread
            continue
        signal.alarm(SECONDS)
        try:
            function(model, task_of(task))
            yield cell, "works", ""
        except UserError as error:
            unread = _rule(error) if cell == "teacher" else ""
            yield cell, "refused", _rule(error)
        except Wrong as error:
            yield cell, "told" if cell == "padding" else "wrong", str(error)
        except BaseException as error:
            yield cell, "fails", _line(error) + " @ " + _where(error)
        finally:
            signal.alarm(0)


def _rule(error: UserError) -> str:
    return f"{error.key}: {error.rule}"


def _line(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


def _where(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if "/distill/" in frame.filename][-1:]
    return " < ".join(f"{f.filename.rsplit('/', 1)[-1]}:{f.lineno}" for f in (*frames[-1:], *ours))
