"""Plays Python files as processes of their own, which are forked from one that has done the slow imports.

That one is this file as a script. It reads a line of JSON for each; it writes its process id, and its exit code once it
and all that it forked have ended.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import json
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

SLOW = (
    *("datasets", "torch.distributed.fsdp", "torch.distributed.tensor", "wandb"),
    *("transformers.models.bert.modeling_bert", "transformers.models.llama.modeling_llama"),
    *("distill.callbacks", "distill.workflows.fit", "distill.run.loggers.make", "distill.workflows.resume"),
)


class Forks:
    """Plays Python files as processes of their own, one after the other, without the imports.

    Args:
        source: The process that has done the imports.
    """

    def __init__(self, source: subprocess.Popen[str]) -> None:
        assert source.stdin is not None
        assert source.stdout is not None
        self._told, self._said, self._pid = source.stdin, source.stdout, 0

    def start(self, command: list[str], environment: dict[str, str], folder: Path, output: Path, errors: Path) -> None:
        """Play a file with its arguments; what an earlier one has left is killed."""
        self.end()
        job = {"command": command, "environment": environment, "folder": str(folder)}
        self._told.write(json.dumps({"job": job, "output": str(output), "errors": str(errors)}) + "\n")
        self._told.flush()
        self._pid = int(self._said.readline())

    def signal(self, number: int) -> None:
        """Send a signal to the process that was started, and to none that it forked."""
        os.kill(self._pid, number)

    def wait(self, timeout: float = 600) -> int:
        """The exit code, once the process and all that it forked have ended; after so many seconds they are killed."""
        late = threading.Timer(timeout, os.killpg, [self._pid, signal.SIGKILL])
        late.start()
        code = int(self._said.readline())
        late.cancel()
        self._pid = 0
        return code

    def end(self) -> None:
        """Kill what was started and not waited for."""
        if self._pid:
            with suppress(ProcessLookupError):
                os.killpg(self._pid, signal.SIGKILL)
            self.wait()


@contextmanager
def forks() -> Iterator[Forks]:
    """Starts processes that need no time for their imports."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("WANDB")}
    options: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    # The folder for what is painted is made here: at its end a process that was forked removes what it knows to remove.
    with tempfile.TemporaryDirectory() as pictures:
        command, environment = [sys.executable, __file__, pictures], clean | {"OMP_NUM_THREADS": "1"}
        with subprocess.Popen(command, env=environment, **options) as source:
            started = Forks(source)
            yield started
            started.end()


# ---------------------------------------------------------------------- in the process that has done the imports

_spare: list[tuple[int, int]] = []
"""A process that waits to become the second rank, and where it is told to."""


class SecondRank(subprocess.Popen[bytes]):
    """What Lightning takes for a new interpreter: the spare process, which has imported all and done nothing yet."""

    def __init__(self, command: Sequence[str], env: dict[str, str], cwd: str | None = None) -> None:
        self._told = json.dumps({"command": command[1:], "environment": env, "folder": cwd or os.getcwd()})
        super().__init__(command)

    def _execute_child(self, *_: Any) -> None:
        self.pid, pipe = _spare.pop()
        self._child_created = True
        with os.fdopen(pipe, "w") as told:
            told.write(self._told)


def be_spare_or_resume() -> None:
    """Fork a process that becomes the second rank when it is told to, and ends when this one does."""
    reading, writing = os.pipe()
    child = os.fork()
    if child:
        os.close(reading)
        _spare.append((child, writing))
        return
    os.close(writing)
    with os.fdopen(reading) as waiting:
        told = waiting.read()
    if not told:
        os._exit(0)
    play(**json.loads(told))


def play(command: list[str], environment: dict[str, str], folder: str) -> None:
    """Run a file with its arguments as if an interpreter had been started for it, and end."""
    from lightning_utilities.core.rank_zero import rank_zero_only

    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    rank_zero_only.rank = int(environment.get("LOCAL_RANK", 0))  # Lightning asks for it once, as it is imported
    sys.argv, sys.path[0] = command, str(Path(command[0]).parent)
    code = 0
    try:
        runpy.run_path(command[0], run_name="__main__")
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        code = 1
    # As an interpreter ends, but for taking apart all that was imported, which costs as much as importing it.
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def begin(job: dict[str, Any], output: str, errors: str) -> None:
    """Play a job in this process, which was forked for it, with a spare one at hand."""
    from pytorch_lightning.strategies.launchers import subprocess_script

    os.setpgid(0, 0)
    streams = [os.open(os.devnull, os.O_RDONLY)]
    streams += [os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND) for path in (output, errors)]
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
    subprocess_script.subprocess = SimpleNamespace(Popen=SecondRank)  # type: ignore[assignment]
    be_spare_or_resume()
    play(**job)


def main() -> None:
    """Fork for one job after the other."""
    for line in iter(sys.stdin.readline, ""):
        ended, alive = os.pipe()  # every process that is forked for the job holds an end
        child = os.fork()
        if not child:
            begin(**json.loads(line))
        os.close(alive)
        print(child, flush=True)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        os.read(ended, 1)
        os.close(ended)
        print(code, flush=True)


if __name__ == "__main__":
    for name in SLOW:
        importlib.import_module(name)
    with suppress(ImportError):  # without the extra nothing is painted
        runpy.run_path(str(Path(__file__).with_name("pictures.py")))["paint_once"](Path(sys.argv[1]))
    gc.freeze()  # what is not looked at stays shared with the processes that are forked
    main()
