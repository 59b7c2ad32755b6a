"""The ``distill`` command. Imports nothing heavy until there is something to do."""

from __future__ import annotations

import errno
import os
import sys
import traceback
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from typing import TYPE_CHECKING

from distill.cli.interrupts import INTERRUPTED, Interrupt, end
from distill.cli.loading import saying_what_loads
from distill.core.utils.errors import Below, TrainingError, UserError, nearest
from distill.core.utils.secrets import scrub
from distill.core.utils.version import VERSION
from distill.core.utils.visible import visible

if TYPE_CHECKING:
    from distill.cli.command import Command

__all__ = ["main"]

# Name -> the module of distill.cli that holds the command, under its name in capitals; no other is imported.
COMMANDS = {
    "fit": "fit",
    "init": "init",
    "record": "record",
    "generate": "generate",
    "resume": "resume",
    "validate": "validate",
    "test": "validate",
    "evaluate": "evaluate",
    "predict": "predict",
    "prune": "prune",
    "quantize": "quantize",
    "export": "export",
    "report": "report",
    "sensitivity": "sensitivity",
    "runs": "runs",
    "sweep": "sweep",
    "search": "search",
    "list": "list",
}

_LEAVE = ("may not be read or written by you", "ask for leave, or name another")
# What the file system says of a path, wherever it was met -> what is wrong, and what to do about it.
_PATHS = {
    errno.ENAMETOOLONG: ("is too long for a path", "give a shorter one"),
    errno.EACCES: _LEAVE,
    errno.EPERM: _LEAVE,
    errno.EROFS: ("lies on a disk that is read only", "name another folder"),
    errno.EISDIR: ("is a folder, where a file has to be", "remove it, or name another"),
    errno.EEXIST: ("is there already, and no folder", "remove it, or name another"),
    errno.ENOTDIR: ("leads through what is no folder", "remove that, or name another"),
    errno.ELOOP: ("leads through too many links", "remove them, or name another"),
    errno.ENOSPC: ("lies on a disk that is full", "make room, or name another folder"),
}

_SHOWN, _SHOWS = {"list", "runs", "predict", "help", "-V", "--version"}, {"-h", "--help", "--dry-run"}
"""Commands, and options, that only show something: it has done its work when nobody reads on."""

_HELP = """\
distill trains a small model from a large one.

  distill fit -c FILE [-c FILE ...] [--key value ...]   train, save and score a student
  distill init DATA [--task TASK]                       look at a folder or files of data, write a YAML for fit
  distill record -c FILE --to FOLDER --as KIND          run a recipe's teacher once, and keep what it says
  distill generate MODEL FILE --to FILE                 a language model's answers to prompts, as data to learn from
  distill resume RUN [--max-epochs N] [--max-steps N]   resume a run that was interrupted, or extend it
  distill validate RUN [--key value ...]                score a run's student on its validation data
  distill test RUN [--key value ...]                    score a run's student on its test data
  distill evaluate MODEL --tasks NAME|FILE|FOLDER       a language model on lm_eval's tasks, beside its teacher
  distill predict RUN [FILE] [--jsonl]                  what a run's student, or any folder's model, says of texts
  distill prune RUN [--method M] [--sparsity S]         prune a run's student without training
  distill quantize RUN [--calibrate N] [--bits B]       quantize a run's student without training
  distill export RUN --to hf|onnx|onnx-int8|...         write a run's student for others to run, verified
  distill report RUN [RUN ...] [--fail-below RULE]      teacher, student and exports side by side: scores, sizes, speed
  distill sensitivity RUN [--sparsity S] [--bits B]     which layers can be pruned, which rounded, and how far
  distill runs [FOLDER] [--json]                        what became of the runs below a folder
  distill runs --compare RUN RUN [RUN ...]              how runs differ, in configuration and metrics
  distill sweep FILE [-c FILE ...] [--key value ...]    a grid or random search over keys, one run a trial
  distill search -c FILE --target RULE [--trials N]     the smallest or fastest student that meets a target
  distill list [KIND ...]                               losses, schedules, callbacks, tasks, recipes

  distill COMMAND --help                                options of a command
  distill --version

FILE is a YAML file, a run's folder (to repeat it), or the name of a recipe that `distill list recipes` shows.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code.

    0: done. 1: training could not continue. 2: something the user can correct. 3: a figure breaks a rule. 130:
    interrupted. After SIGTERM a run raises ``SystemExit`` with 143, which passes through here.

    Args:
        argv: What follows ``distill``; the process's own arguments if not given, and an exception that nothing else has
            caught is then shown here, without its secrets, and an interrupt ends the process.
    """
    interrupt = Interrupt()
    if argv is None:
        interrupt.take()
    try:
        code = _code(argv, interrupt)
    except KeyboardInterrupt:
        interrupt.heed_no_more()
        code = INTERRUPTED
        if os.environ.get("LOCAL_RANK", "0") == "0":  # of a run's processes one says so
            _complain("interrupted", code)
    interrupt.leave()
    if argv is None and code == INTERRUPTED:
        end()
    return code


def _code(argv: Sequence[str] | None, interrupt: Interrupt) -> int:
    """The exit code, after what is to be said.

    Raises:
        KeyboardInterrupt: if one came, also while something was said.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        _heeding(words, interrupt)
    except UserError as error:
        return _complain(str(error), 2)
    except TrainingError as error:
        return _complain(str(error), 1)
    except Below as error:
        return _complain(str(error), 3)
    except BrokenPipeError:  # `distill list | head`
        with suppress(OSError):  # what is no file has none to be replaced
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if not {*words[:1]} & _SHOWN | {*words} & _SHOWS:
            return _complain("nobody reads any more what this command prints, so it has ended (distill ... | head?)", 1)
    except Exception as error:
        if isinstance(error, OSError) and error.errno in _PATHS and error.filename is not None:
            problem, hint = _PATHS[error.errno]
            return _complain(str(UserError(problem, key="path", value=str(error.filename), hint=hint)), 2)
        if argv is not None:
            raise
        # Not left to sys.excepthook, where W&B's shows it as it is.
        print(visible(scrub(traceback.format_exc())), end="", file=sys.stderr)
        return 1
    return 0


def _heeding(argv: list[str], interrupt: Interrupt) -> None:
    """Run the command; an interrupt that became something else on its way is one all the same.

    Raises:
        KeyboardInterrupt: if one came, whatever became of it.
    """
    try:
        _run(argv)
    except Exception as error:
        if not interrupt.received:
            raise
        raise KeyboardInterrupt from error
    if interrupt.received:
        raise KeyboardInterrupt


def _complain(message: str, code: int) -> int:
    print(f"distill: error: {message}", file=sys.stderr)
    return code


def _run(argv: list[str]) -> None:
    name, *rest = argv or ["--help"]
    if name in ("-h", "--help", "help"):
        print(_HELP, end="")
    elif name in ("-V", "--version"):
        print(f"distill {VERSION}")
    elif name in COMMANDS:
        command: Command = getattr(import_module(f"distill.cli.{COMMANDS[name]}"), name.upper())
        with saying_what_loads():
            command.main(name, rest)
    else:
        raise UserError("no such command", key="distill", value=name, hint=nearest(name, COMMANDS))
