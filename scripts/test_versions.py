#!/usr/bin/env python
"""The suite's fast part, against other releases of one library at a time.

    python scripts/test_versions.py transformers==5.20.0 wandb==0.28.0 [--tests PATH ...] [--table FILE]

Each release is installed into a folder of its own that stands before the environment's packages (``pip install
--target --no-deps``) and is thrown away afterwards; the rest stays what ``constraints.txt`` says. What it requires
of the others is held against what is installed. Prints a line for each, and with ``--table`` writes them as rows of a
table. What passed is what the bounds in ``pyproject.toml`` may say.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, distributions, version
from pathlib import Path
from typing import NamedTuple

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[1]
FAST = ("tests/core/internals", "tests/losses", "tests/tasks", "tests/config", "tests/cli/test_fit.py")
"""What touches each library's interfaces, and trains and saves once, in two minutes."""


class Outcome(NamedTuple):
    """A release, what came of it, and the seconds that it took."""

    release: str
    outcome: str
    seconds: float

    @property
    def row(self) -> str:
        return f"| {self.release.replace('==', ' | ')} | {self.outcome} |"


def unmet(folder: Path) -> list[str]:
    """What the distributions in a folder require that the environment does not have."""
    missing = []
    for distribution in distributions(path=[str(folder)]):
        for text in distribution.requires or ():
            wanted = Requirement(text)
            if wanted.marker is not None and not wanted.marker.evaluate({"extra": ""}):
                continue
            try:
                if version(wanted.name) not in wanted.specifier:
                    missing.append(f"{wanted.name}{wanted.specifier}")
            except PackageNotFoundError:
                missing.append(wanted.name)
    return missing


def attempt(release: str, tests: Sequence[str], timeout: float) -> Outcome:
    """Install a release beside the environment and run the tests with it."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", folder, release]
        installed = subprocess.run(command, capture_output=True, text=True, check=False)
        if installed.returncode:
            return Outcome(release, "cannot be installed", time.monotonic() - began)
        if lacking := unmet(Path(folder)):
            return Outcome(release, f"needs {', '.join(lacking)}", time.monotonic() - began)
        path = os.pathsep.join(filter(None, [folder, str(ROOT), os.environ.get("PYTHONPATH")]))
        command = [sys.executable, "-m", "pytest", "-n", "0", "-m", "not slow", "-W", "ignore", *tests]
        environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
        try:
            done = subprocess.run(
                command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=timeout
            )
        except subprocess.TimeoutExpired:
            return Outcome(release, "did not end in time", time.monotonic() - began)
    return Outcome(release, outcome_of(done.stdout), time.monotonic() - began)


def outcome_of(output: str) -> str:
    """``passes``, or how much failed and what of it comes first, of what pytest printed."""
    failed = re.findall(r"^(?:FAILED|ERROR) (\S+)", output, flags=re.MULTILINE)
    if failed:
        return f"{len(failed)} fail, first {failed[0]}"
    return "passes" if re.search(r"\[100%\]|\d+ passed", output) else "does not run"


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("releases", nargs="+", metavar="NAME==VERSION")
    parser.add_argument("--tests", nargs="+", default=FAST, metavar="PATH")
    parser.add_argument("--timeout", type=float, default=900, help="seconds for the tests of one release")
    parser.add_argument("--table", type=Path, metavar="FILE", help="append the rows to this file")
    options = parser.parse_args(argv)
    for release in options.releases:
        outcome = attempt(release, options.tests, options.timeout)
        print(f"{outcome.release}: {outcome.outcome} ({outcome.seconds:.0f} s)", flush=True)
        if options.table:
            with options.table.open("a", encoding="utf-8") as file:
                print(outcome.row, file=file)


if __name__ == "__main__":
    main()
