"""A child process: cells of several model types, one after the other, a line of JSON each on its standard output."""

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

from architectures.cells import CELLS, Wrong
from architectures.tiny import task_of, tiny_model
from distill.core.utils.errors import UserError

__all__ = ["main"]

MEMORY = 6 << 30  # bytes
SECONDS = {"exported": 150}  # a cell, if not 60
_WARNED = ("padding", "left")  # what a run, and an export, say themselves


def main(cases: list[str]) -> None:
    """Try ``cases`` (``type:task:cell,cell``)."""
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
    faulthandler.enable()
    warnings.simplefilter("ignore")
    logging.disable(logging.ERROR)
    torch.set_num_threads(1)
    signal.signal(signal.SIGALRM, _too_long)
    out, sys.stdout = sys.stdout, sys.stderr
    for case in cases:
        kind, task, cells = case.split(":")
        for cell, state, why in _tried(kind, task, cells.split(",")):
            print(json.dumps({"type": kind, "task": task, "cell": cell, "state": state, "why": why}), file=out)
            out.flush()


def _too_long(*_: Any) -> None:
    raise TimeoutError("took too long")


def _late(error: BaseException | None) -> bool:
    return error is not None and (isinstance(error, TimeoutError) or _late(error.__cause__) or _late(error.__context__))


def _tried(kind: str, task: str, cells: list[str]) -> Any:
    signal.alarm(60)
    try:
        model = tiny_model(kind, task)
    except BaseException as error:
        signal.alarm(0)
        yield "model", "none", _line(error)
        return
    unread = ""
    for cell in cells:
        if unread:  # a run with it ends there
            yield cell, "refused", unread
            continue
        signal.alarm(SECONDS.get(cell, 60))
        try:
            CELLS[cell](model, task_of(task))
            yield cell, "works", ""
        except UserError as error:
            if _late(error):  # the exporter takes any error for its own
                yield cell, "slow", "took too long"
                continue
            unread = _rule(error) if cell == "teacher" else ""
            yield cell, "refused", _rule(error)
        except TimeoutError as error:
            yield cell, "slow", str(error)
        except Wrong as error:
            yield cell, "warned" if cell in _WARNED else "wrong", str(error)
        except BaseException as error:
            yield cell, "fails", _line(error) + " @ " + _where(error)
        finally:
            signal.alarm(0)


def _rule(error: UserError) -> str:
    return f"{error.key}: {error.problem}"


def _line(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


def _where(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if "/distill/" in frame.filename][-1:]
    return " < ".join(f"{f.filename.rsplit('/', 1)[-1]}:{f.lineno}" for f in (*frames[-1:], *ours))
