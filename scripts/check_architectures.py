#!/usr/bin/env python
"""Try a tiny random model of every architecture of the installed transformers, and write what came of it as a table.

    python scripts/check_architectures.py [--only TYPE ...] [--task TASK ...] [--export] [--work FILE] [--out FILE]

Each model is a teacher, a student copied from it, trained on hints, pruned, quantised and (``--export``) exported,
and is compared with itself. What was tried is kept in ``--work``, so that a killed run goes on. Takes about 40 minutes
of one core, and with ``--export`` three hours.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

SCRIPTS = Path(__file__).parent
TASKS = ("causal-lm", "masked-lm", "text-classification", "token-classification")
SILENCE = 300
"""Seconds without a result after which a child process is taken for dead: the checks have limits of their own."""


def main(argv: Sequence[str] | None = None) -> None:
    options = _parser().parse_args(argv)
    if options.worker:
        from architectures.worker import main as work

        return work(options.worker, options.export)
    from architectures.table import write
    from architectures.tiny import model_types

    cases = [f"{kind}:{task}" for kind, task in model_types(list(options.task or TASKS))]
    if options.only:
        cases = [case for case in cases if case.split(":")[0] in options.only]
    work = Path(options.work)
    work.parent.mkdir(parents=True, exist_ok=True)
    done = {f"{row['type']}:{row['task']}" for row in _rows(work)}
    todo = [case for case in cases if case not in done]
    with work.open("a", encoding="utf-8") as kept:
        for start in range(0, len(todo), options.batch):
            for row in _tried(todo[start : start + options.batch], options.export):
                kept.write(json.dumps(row) + "\n")
                kept.flush()
                case = f"{row['type']}:{row['task']}"
                print(f"{len(done)}/{len(cases)} {case} {row['cell']} {row['state']}", flush=True)
                done.add(case)
    if options.out:
        write(list(_rows(work)), Path(options.out))
    return None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", metavar="TYPE", help="these model types")
    parser.add_argument("--task", nargs="+", choices=TASKS, help="these tasks")
    parser.add_argument("--export", action="store_true", help="export to ONNX, too")
    parser.add_argument("--batch", type=int, default=24, help="models a child process tries")
    parser.add_argument("--work", default="runs/architectures.jsonl", help="what was tried so far; remove it to begin")
    parser.add_argument("--out", help="the table; docs/architectures.md is one")
    parser.add_argument("--worker", nargs="+", help=argparse.SUPPRESS)
    return parser


def _rows(work: Path) -> Iterator[dict[str, Any]]:
    if work.exists():
        for line in work.read_text(encoding="utf-8").splitlines():
            yield json.loads(line)


def _tried(cases: Sequence[str], export: bool) -> Iterator[dict[str, Any]]:
    """The results of ``cases``; where a process ends in the middle, it is the present case's, and the rest goes on."""
    left = list(cases)
    while left:
        given = [sys.executable, __file__, *(["--export"] if export else []), "--worker", *left]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(SCRIPTS)}
        child = subprocess.Popen(
            given, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment, cwd=SCRIPTS.parent
        )
        assert child.stdout is not None
        seen: dict[str, int] = {}
        dog = threading.Timer(SILENCE, child.kill)
        dog.start()
        for line in child.stdout:
            dog.cancel()
            dog = threading.Timer(SILENCE, child.kill)
            dog.start()
            row = json.loads(line)
            seen[f"{row['type']}:{row['task']}"] = 1
            yield row
        dog.cancel()
        code = child.wait()
        if code == 0:
            return
        at = max((left.index(case) for case in seen), default=0)
        kind, task = left[at].split(":")
        yield {"type": kind, "task": task, "cell": "process", "state": "fails", "why": f"ended with code {code}"}
        left = left[at + 1 :]


if __name__ == "__main__":
    main()
