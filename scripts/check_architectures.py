#!/usr/bin/env python
"""Try a tiny random model of every architecture of the installed transformers, and write what came of it as a table.

    python scripts/check_architectures.py [--only TYPE ...] [--task TASK ...] [--work FILE] [--out FILE]

Each model is a teacher, padded, packed, a student copied from it, trained on hints, pruned, quantized and, with one of
the heads of its type, exported, and is compared with itself. What was tried is kept in ``--work``, so that a killed run
continues, and a line that is taken out of it is tried again. Takes about an hour of one core.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import signal
import subprocess
import sys
import threading
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

SCRIPTS = Path(__file__).parent
TASKS = ("causal-lm", "masked-lm", "text-classification", "token-classification")
Cases = dict[tuple[str, str], list[str]]
"""Type and task -> what is tried with it."""

SILENCE = 300
"""Seconds without a result after which a child process is taken for dead: the checks have limits of their own."""


def main(argv: Sequence[str] | None = None) -> None:
    options = _parser().parse_args(argv)
    if options.worker:
        from architectures.worker import main as worker

        return worker(options.worker)
    from architectures.table import write

    work = Path(options.work)
    work.parent.mkdir(parents=True, exist_ok=True)
    cases, total = _missing(list(_rows(work)), options.only, options.task or TASKS)
    done = itertools.count(total - sum(len(cells) for cells in cases.values()) + 1)
    lock = threading.Lock()

    def keep(some: list[tuple[str, str]]) -> None:
        for row in _tried({case: cases[case] for case in some}):
            with lock, work.open("a", encoding="utf-8") as kept:
                kept.write(json.dumps(row) + "\n")
                print(f"{next(done)}/{total} {row['type']}:{row['task']} {row['cell']} {row['state']}", flush=True)

    todo = list(cases)
    with ThreadPoolExecutor(options.jobs) as pool:
        list(pool.map(keep, (todo[start : start + options.batch] for start in range(0, len(todo), options.batch))))
    if options.out:
        write(list(_rows(work)), Path(options.out))
    return None


def _missing(rows: Sequence[dict[str, Any]], only: Sequence[str] | None, tasks: Sequence[str]) -> tuple[Cases, int]:
    """Type and task -> the cells that were not tried yet, and how many there are in all."""
    from architectures.cells import cells_of
    from architectures.tiny import model_types

    heads: dict[str, list[str]] = defaultdict(list)
    for kind, task in model_types(list(TASKS)):
        heads[kind].append(task)
    tried = {(row["type"], row["task"], row["cell"]) for row in rows}
    wanted = {
        (kind, task): [cell for cell in cells_of(task, heads[kind]) if (kind, task, "model") not in tried]
        for task in tasks
        for kind in sorted(heads)
        if task in heads[kind] and (not only or kind in only)
    }
    left = {case: [cell for cell in cells if (*case, cell) not in tried] for case, cells in wanted.items()}
    return {case: cells for case, cells in left.items() if cells}, sum(map(len, wanted.values()))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", metavar="TYPE", help="these model types")
    parser.add_argument("--task", nargs="+", choices=TASKS, help="these tasks")
    parser.add_argument("--jobs", type=int, default=1, help="processes at once, each of one thread")
    parser.add_argument("--batch", type=int, default=24, help="models a child process tries")
    parser.add_argument("--work", default="runs/architectures.jsonl", help="what was tried so far; remove it to begin")
    parser.add_argument("--out", help="the table; docs/architectures.md is one")
    parser.add_argument("--worker", nargs="+", help=argparse.SUPPRESS)
    return parser


def _rows(work: Path) -> Iterator[dict[str, Any]]:
    if work.exists():
        for line in work.read_text(encoding="utf-8").splitlines():
            yield json.loads(line)


def _tried(cases: Cases) -> Iterator[dict[str, Any]]:
    """The results of ``cases``; where a process ends in the middle, it is the present cell's, and the others follow."""
    left = {case: list(cells) for case, cells in cases.items()}
    while left:
        code = None
        for row in _child([f"{kind}:{task}:{','.join(cells)}" for (kind, task), cells in left.items()]):
            if isinstance(row, int):
                code = row
                break
            yield row
            case = row["type"], row["task"]
            left[case] = [] if row["cell"] == "model" else [cell for cell in left[case] if cell != row["cell"]]
            if not left[case]:
                del left[case]
        if left:
            (kind, task), cells = next(iter(left.items()))
            state = "slow" if code == -signal.SIGKILL else "fails"
            yield {"type": kind, "task": task, "cell": cells.pop(0), "state": state, "why": f"ended with code {code}"}
            left = {case: cells for case, cells in left.items() if cells}


def _child(given: Sequence[str]) -> Iterator[dict[str, Any] | int]:
    """The rows that a child process writes, and the code that it ends with."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(SCRIPTS)}
    child = subprocess.Popen(
        [sys.executable, __file__, "--worker", *given],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=environment,
        cwd=SCRIPTS.parent,
    )
    assert child.stdout is not None
    dog = threading.Timer(SILENCE, child.kill)
    dog.start()
    for line in child.stdout:
        dog.cancel()
        dog = threading.Timer(SILENCE, child.kill)
        dog.start()
        yield json.loads(line)
    dog.cancel()
    yield child.wait()


if __name__ == "__main__":
    main()
