"""Run by test_disk.py in a mount namespace of its own: trains on small disks, and on one that may not be written to.

What each command ended with and said goes to ``said.json`` in the folder of results, beside what is left of its run.
"""

from __future__ import annotations

import contextlib
import io
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from distill.cli.main import main as distill
from distill.training.module import Distillation

STEP = 9  # of 14: the disk is then full, or read only


def mount(folder: Path, *options: str) -> None:
    subprocess.run(["mount", *options, str(folder)], check=True)


def disk(folder: Path, kilobytes: int) -> Path:
    folder.mkdir()
    mount(folder, "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs")
    return folder


def read_only(folder: Path) -> None:
    """Have nobody write below ``folder`` any more, by a view of it: the disk itself is in use."""
    mount(folder, "--bind", str(folder))
    mount(folder, "-o", "remount,bind,ro")


def fill(folder: Path) -> None:
    """Leave no room on the disk that ``folder`` is."""
    with contextlib.suppress(OSError), (folder / "filler").open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))


def at(step: int, action: Callable[[], None]) -> None:
    """Do ``action`` in the training step that comes after so many."""
    original = Distillation.training_step

    def training_step(self: Any, *given: Any) -> Any:
        if self.global_step == step:
            Distillation.training_step = original  # type: ignore[method-assign]
            action()
        return original(self, *given)

    Distillation.training_step = training_step  # type: ignore[method-assign]


def said(*arguments: str) -> tuple[int, str, str]:
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
        code = distill(arguments)
    return code, out.getvalue(), err.getvalue()


def main(recipe: str, stopped: Path, disks: Path, results: Path) -> None:
    fit = ("fit", "-c", recipe, "--logging.tensorboard", "true", "--id", "run", "--runs")
    ends: dict[str, tuple[int, str, str]] = {}
    for name, kilobytes, trouble in (("full", 4000, fill), ("read only", 4000, read_only), ("tiny", 40, None)):
        folder = disk(disks / name, kilobytes)
        if trouble is not None:
            at(STEP, partial(trouble, folder))
        ends[name] = said(*fit, str(folder))
        shutil.copytree(folder / "base/run", results / name)
    folder = disk(disks / "never", 4000)
    shutil.copytree(stopped, folder / "run")
    read_only(folder)
    ends["resume"] = said("resume", str(folder / "run"))
    ends["fit"] = said(*fit, str(folder))
    shutil.copytree(folder, results / "never")
    (results / "said.json").write_text(json.dumps(ends))


if __name__ == "__main__":
    main(sys.argv[1], *map(Path, sys.argv[2:]))
