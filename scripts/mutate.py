#!/usr/bin/env python
"""Try the tests: plant small faults, one at a time, in a copy of the tree, and see whether a test that should fails.

    python scripts/mutate.py                     # all of scripts/mutations/
    python scripts/mutate.py losses compression  # the tables of some rooms
    python scripts/mutate.py hinton-no-square    # or faults by name

The tables say of every fault where it is planted (a text that occurs once in its file), what stands there instead, and
which tests have to find it. One that is known to survive has a reason beside it; one that survives without, or is found
in spite of it, makes the exit code 1. What takes seconds to import is imported once, by a parent that forks a child
for each fault; the child imports distill anew, from its copy, and so do the processes that its tests start.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import importlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

ROOT = Path(__file__).resolve().parents[1]
TABLES = ROOT / "scripts" / "mutations"
HEAVY = ("torch", "numpy", "scipy", "torchmetrics", "transformers", "pytorch_lightning", "jsonargparse", "pytest")
"""Imported before the first child is forked. Not datasets, which reads at import where its cache is."""

Verdict = Literal["killed", "timed out", "survived", "no test ran", "fail without it"]
"""``fail without it``: the tests do so too where no fault is planted, and so say nothing of it."""

_PAUSE = 0.02


@dataclass(frozen=True)
class Mutation:
    """A small fault: ``old``, which stands once in ``file``, gives way to ``new``, and ``tests`` have to notice."""

    room: str
    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]
    survives: str = ""
    """Why no test finds it, where that is known."""

    def plant(self, tree: Path) -> None:
        """Write the fault into the copy ``tree``.

        Raises:
            ValueError: if its place is not there exactly once.
        """
        path = tree / self.file
        text = path.read_text(encoding="utf-8")
        if text.count(self.old) != 1:
            raise ValueError(f"{self.name}: its text occurs {text.count(self.old)} times in {self.file}")
        path.write_text(text.replace(self.old, self.new), encoding="utf-8")


def read_tables(folder: Path = TABLES) -> list[Mutation]:
    """All faults of ``folder``, one table a room."""
    return [
        Mutation(room=path.stem, **entry | {"tests": tuple(entry["tests"])})
        for path in sorted(folder.glob("*.toml"))
        for entry in tomllib.loads(path.read_text(encoding="utf-8"))["mutation"]
    ]


def chosen(mutations: Sequence[Mutation], words: Sequence[str]) -> list[Mutation]:
    """Those of the rooms, or of the names, in ``words``; all where there are none.

    Raises:
        SystemExit: at a word that is neither.
    """
    known = {m.room for m in mutations} | {m.name for m in mutations}
    if unknown := [word for word in words if word not in known]:
        raise SystemExit(
            f"neither a room nor a name: {', '.join(unknown)}; rooms: {sorted({m.room for m in mutations})}"
        )
    return [m for m in mutations if not words or m.room in words or m.name in words]


def copy_tree(source: Path, target: Path) -> None:
    """Copy what git knows of ``source``, and compile it, so that a child compiles what was mutated alone."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=source,
        capture_output=True,
        check=True,
    )
    for name in listed.stdout.decode().split("\0"):
        if name and os.path.lexists(source / name):
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source / name, target / name, follow_symlinks=False)
    compiled = [sys.executable, "-m", "compileall", "-q", "--invalidation-mode", "checked-hash", "distill", "callbacks"]
    subprocess.run([*compiled, "tests"], cwd=target, check=True)


class Running:
    """Tests that run in a child forked from this process, with the packages of a tree.

    Args:
        tree: A copy, mutated or not.
        tests: Files, or tests by their ids.
        limit: Seconds after which the child and all that it started are killed.
        log: What it says is written here.
        slow: Whether those marked slow run where quick ones pass. They run where there are no quick ones.
    """

    def __init__(self, tree: Path, tests: Sequence[str], limit: float, log: Path, slow: bool = False) -> None:
        self._scratch, self._end = Path(tempfile.mkdtemp(prefix="mutate-")), time.monotonic() + limit
        # From the main thread: what the child forks itself, as tests of two ranks do, ends well from there alone.
        self._child = os.fork()
        if not self._child:
            _child(tree, tests, self._scratch, log, slow)

    def poll(self) -> Verdict | None:
        """What became of it; ``None`` while it runs."""
        pid, status = os.waitpid(self._child, os.WNOHANG)
        if not pid and time.monotonic() < self._end:
            return None
        self.kill(waited=bool(pid))
        return _verdict(os.waitstatus_to_exitcode(status) if pid else None)

    def kill(self, waited: bool = False) -> None:
        """End the child, unless it was waited for, and all that it has started."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._child, signal.SIGKILL)
        if not waited:
            os.waitpid(self._child, 0)
        shutil.rmtree(self._scratch, ignore_errors=True)


def run_tests(tree: Path, tests: Sequence[str], limit: float, log: Path, slow: bool = False) -> Verdict:
    """What :class:`Running` such tests comes to."""
    running = Running(tree, tests, limit, log, slow)
    while (verdict := running.poll()) is None:
        time.sleep(_PAUSE)
    return verdict


def _child(tree: Path, tests: Sequence[str], scratch: Path, log: Path, slow: bool) -> None:
    """Become a session of its own, run pytest, and end with its code."""
    code: int = 3
    try:
        os.setsid()
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        for stream in (1, 2):
            os.dup2(output, stream)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.chdir(tree)
        os.environ |= {
            "PYTHONPATH": str(tree),
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
            "TMPDIR": str(scratch),
        }
        tempfile.tempdir, sys.dont_write_bytecode = str(scratch), True
        sys.path[:0] = [str(tree)]
        for name in [
            name for name in sys.modules if name.split(".")[0] in ("distill", "callbacks", "tests", "conftest")
        ]:
            del sys.modules[name]
        importlib.invalidate_caches()
        import pytest

        ways = ["-x", "-q", "-p", "no:cacheprovider", "--basetemp", str(scratch / "pytest"), "--rootdir", str(tree)]
        code = int(pytest.main([*ways, "-m", "not slow", *tests]))
        if code == 5 or (code == 0 and slow):
            found = int(pytest.main([*ways, "-m", "slow", *tests]))
            code = code if found == 5 else found
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _verdict(code: int | None) -> Verdict:
    """Of pytest's exit code: 0 is a fault that nothing noticed; 4 and 5 say that there was no test to notice it."""
    if code is None:
        return "timed out"
    if code in (4, 5):
        return "no test ran"
    return "survived" if code == 0 else "killed"


@dataclass(frozen=True)
class Tried:
    """What became of one fault."""

    mutation: Mutation
    verdict: Verdict
    seconds: float

    @property
    def expected(self) -> bool:
        """Whether it is what the table says."""
        wanted = ("survived",) if self.mutation.survives else ("killed", "timed out")
        return self.verdict in wanted


def try_all(mutations: Sequence[Mutation], work: Path, jobs: int, limit: float) -> Iterator[Tried]:
    """Each fault, ``jobs`` at a time, as they end; each job has a copy of its own, restored after each fault."""
    waiting, sound = deque(mutations), dict[str, Verdict]()
    working = []
    for job in range(jobs):
        copy_tree(ROOT, tree := work / f"tree-{job}")
        working.append(_job(tree, waiting, sound, work, limit))
    while working:
        for job_ in list(working):
            tried = next(job_, "done")
            if isinstance(tried, Tried):
                yield tried
            elif tried == "done":
                working.remove(job_)
        time.sleep(_PAUSE)


def _job(
    tree: Path, waiting: deque[Mutation], sound: dict[str, Verdict], work: Path, limit: float
) -> Generator[Tried | None, None, None]:
    """What one job has tried; ``None`` while it tries. ``sound`` is what tests come to without any fault."""
    while waiting:
        mutation = waiting.popleft()
        for test in mutation.tests:
            if test not in sound:
                sound[test] = yield from _awaited(Running(tree, [test], 3 * limit, work / "sound.log"))
        began = time.monotonic()
        if any(sound[test] != "survived" for test in mutation.tests):
            yield Tried(mutation, "fail without it", 0.0)
            continue
        before = (tree / mutation.file).read_bytes()
        try:
            mutation.plant(tree)
            log = work / f"{mutation.name}.log"
            verdict = yield from _awaited(Running(tree, mutation.tests, limit, log, slow=True))
        finally:
            (tree / mutation.file).write_bytes(before)
        yield Tried(mutation, verdict, time.monotonic() - began)


def _awaited(running: Running) -> Generator[None, None, Verdict]:
    ended = False
    try:
        while (verdict := running.poll()) is None:
            yield
        ended = True
        return verdict
    finally:
        if not ended:  # interrupted
            running.kill()


def summary(tried: Sequence[Tried]) -> str:
    """Counts by room and in all, survivors with their reasons, and what the tables did not say."""
    lines = [f"\n{'room':<14}{'faults':>8}{'killed':>8}{'timed out':>11}{'survived':>10}"]
    rooms = sorted({t.mutation.room for t in tried})
    for room in [*rooms, "all"]:
        of = [t for t in tried if room in (t.mutation.room, "all")]
        count = {v: sum(t.verdict == v for t in of) for v in ("killed", "timed out", "survived")}
        lines.append(f"{room:<14}{len(of):>8}{count['killed']:>8}{count['timed out']:>11}{count['survived']:>10}")
    dead = sum(t.verdict in ("killed", "timed out") for t in tried)
    lines.append(f"{dead} of {len(tried)} killed ({100 * dead / max(1, len(tried)):.1f} %)")
    for t in tried:
        if t.verdict not in ("killed", "timed out"):
            lines.append(
                f"{t.verdict}: {t.mutation.name} ({t.mutation.file}): {t.mutation.survives or 'no reason known'}"
            )
        elif not t.expected:
            lines.append(f"killed, though the table says that it survives: {t.mutation.name}")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("which", nargs="*", metavar="ROOM|NAME", help="tables, or single faults; all if not given")
    parser.add_argument("--jobs", type=int, default=1, help="faults tried at a time (default: 1)")
    parser.add_argument("--limit", type=float, default=240.0, help="seconds for the tests of one (default: 240)")
    parser.add_argument("--logs", type=Path, help="keep what the tests said in this folder")
    options = parser.parse_args(argv)
    mutations = chosen(read_tables(), options.which)
    os.environ["OMP_NUM_THREADS"] = "1"  # before torch starts threads, which a child would not inherit
    for name in HEAVY:
        importlib.import_module(name)
    gc.freeze()  # no child looks through what all have
    work = Path(tempfile.mkdtemp(prefix="mutate-"))
    began, tried = time.monotonic(), []
    try:
        for t in try_all(mutations, work, options.jobs, options.limit):
            tried.append(t)
            place = f"[{len(tried)}/{len(mutations)}]"
            print(f"{place:>9} {t.verdict:<15} {t.seconds:5.1f} s  {t.mutation.room}/{t.mutation.name}", flush=True)
        print(summary(tried), f"in {time.monotonic() - began:.0f} s", flush=True)
    finally:
        if options.logs:
            options.logs.mkdir(parents=True, exist_ok=True)
            for log in work.glob("*.log"):
                shutil.copy2(log, options.logs)
        shutil.rmtree(work, ignore_errors=True)
    return int(not all(t.expected for t in tried))


if __name__ == "__main__":
    sys.exit(main())
