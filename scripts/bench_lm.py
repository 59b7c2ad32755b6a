#!/usr/bin/env python
"""A whole step of distilling a language model: ours, TRL's, a bare loop, and what its products alone would take.

    python scripts/bench_lm.py --teacher SMOLLM2 [--student-layers 10] [--threads 2] [--out FILE]
    python scripts/bench_lm.py --teacher SMOLLM2 --gpt2

The student is ten of the teacher's layers, the loss KL, the batches are four blocks of 256 tokens, the optimizer is
AdamW. With ``--gpt2`` both models are GPT-2's of twelve and six layers with random weights, and the teacher's tokenizer
alone is used. Every contender trains in a process of its own, in turn, in another order from repeat to repeat; figures
are medians over the repeats of its median step after the first, and ratios are those within a repeat. ``processor`` is
the seconds of the processor, which other jobs on the machine disturb least; memory is the process's peak.

TRL is measured where it is installed (``pip install --no-deps trl accelerate psutil``). Its ``DistillationTrainer``
generates what it trains on; here it is fed with the texts instead, so that the step does the same work.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path

import torch
from bench.lm_contenders import ALONE, BARE, CONTENDERS, FLOOR, OURS, TRL, TRL_GKD, TRL_SFT
from bench.lm_work import BATCH, HIDDEN, LENGTH, RECORDINGS, TOPK, Clock, Work, prepare, record
from bench.report import Row, machine, row, show, write
from rich.console import Console


def measure(work: Work, name: str) -> dict[str, float]:
    """One contender, in this process."""
    clock = Clock()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        CONTENDERS[name](work, name, clock)
    return {
        "wall": statistics.median(clock.wall),
        "processor": statistics.median(clock.processor),
        "mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def rows(found: Mapping[str, list[dict[str, float]]]) -> Iterator[Row]:
    """Tokens a second, processor time, memory, and ours beside each."""
    tokens = BATCH * LENGTH
    for name, runs in found.items():
        yield row(name, [tokens / run["wall"] for run in runs], "tokens/s")
    for name, runs in found.items():
        yield row(f"{name}: processor", [run["processor"] for run in runs], "s a step")
    for name, runs in found.items():
        if name != FLOOR:
            yield row(f"{name}: memory", [run["mb"] for run in runs], "MB")
    pairs = [(OURS, other) for other in (FLOOR, BARE, TRL, TRL_GKD)]
    pairs += [(ALONE, TRL_SFT), (HIDDEN, ALONE), (TOPK, ALONE)]
    for mine, theirs in pairs:
        if mine in found and theirs in found:
            ratios = [a["processor"] / b["processor"] for a, b in zip(found[mine], found[theirs], strict=True)]
            goal = {} if theirs in (FLOOR, ALONE) else {"at_most": 1.0}
            yield row(f"{mine} : {theirs}, processor", ratios, "x", **goal)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", help="folder of the teacher")
    parser.add_argument("--gpt2", action="store_true", help="GPT-2's of 12 and 6 layers, random weights")
    parser.add_argument("--student-layers", type=int, default=10)
    parser.add_argument("--steps", type=int, default=5, help="of a contender in a repeat; the first does not count")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--only", nargs="+", choices=CONTENDERS, metavar="NAME", help=", ".join(CONTENDERS))
    parser.add_argument("--out", type=Path, help="write the numbers as JSON")
    parser.add_argument("--one", nargs=2, metavar=("FOLDER", "NAME"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    if given.one:
        print("\n" + json.dumps(measure(Work(Path(given.one[0]), given.steps), given.one[1])))
        return
    if given.teacher is None:
        parser.error("name the folder of the --teacher")
    names = given.only or [name for name in CONTENDERS if not name.startswith("TRL") or find_spec("trl")]
    found: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    about = machine(given.threads, "32-true")
    with tempfile.TemporaryDirectory() as folder:
        work = Work(Path(folder), given.steps)
        prepare(work, given.teacher, given.student_layers, given.gpt2)
        if RECORDINGS.keys() & set(names):
            record(work)
        for repeat in range(given.repeats):
            for name in names[:: 1 if repeat % 2 else -1]:
                command = [sys.executable, __file__, "--one", folder, name, "--steps", str(given.steps)]
                command += ["--threads", str(given.threads)]
                done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
                found[name].append(json.loads(done.stdout.splitlines()[-1]))
                print(name, found[name][-1], flush=True)
    title = "GPT-2, 12 to 6 layers" if given.gpt2 else f"{Path(given.teacher).name} to {given.student_layers} layers"
    result = list(rows(found))
    show(title, result, Console(width=140))
    if given.out:
        settings = {"batch": BATCH, "length": LENGTH, "steps": given.steps, "repeats": given.repeats, "pair": title}
        write(given.out, about, settings, {title: result})


if __name__ == "__main__":
    main()
