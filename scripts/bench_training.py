#!/usr/bin/env python
"""How fast training is: against a bare loop, against other ways of distilling, and what the teacher costs.

    python scripts/bench_training.py [--data FOLDER] [--model FOLDER] [--only SECTION] [--out FILE]

Needs the folder of SST-2 (``DISTILL_DATA``/sst2 if not given) and a quiet machine; no accelerator. Peers are
measured where they are installed: ``pip install accelerate`` for ``transformers.Trainer``, and
``pip install --no-deps textbrewer``. Takes about ten minutes on two cores.
"""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import torch
from bench.overhead import overhead
from bench.pair import Settings
from bench.peers import peers
from bench.report import Row, machine, show, write
from bench.teacher_cost import teacher_cost
from rich.console import Console

SECTIONS: dict[str, tuple[str, Callable[[Settings], list[Row]]]] = {
    "overhead": ("Overhead over a bare PyTorch loop", overhead),
    "peers": ("Distillation on SST-2", peers),
    "teacher": ("What the teacher costs", teacher_cost),
}


def parser(description: str | None, steps: int = 60) -> argparse.ArgumentParser:
    """The options that benchmarks of training share."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    data = Path(os.environ.get("DISTILL_DATA", Path(__file__).parents[2] / "shared/data")) / "sst2"
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--data", default=str(data), help="folder of SST-2 (%(default)s)")
    made.add_argument("--model", default="nreimers/MiniLM-L6-H384-uncased", help="encoder: hub id or folder")
    made.add_argument("--steps", type=int, default=steps, help="timed steps of a repeat")
    made.add_argument("--repeats", type=int, default=5, help="repeats, of which medians are taken")
    made.add_argument("--threads", type=int, default=cores, help="threads of torch (all cores)")
    made.add_argument("--precision", choices=("32-true", "bf16-mixed"), default="32-true", help="of everybody alike")
    made.add_argument("--phrases", type=int, default=20_000, help="size of the training subset")
    made.add_argument("--batch-size", type=int, default=32, help="phrases of a batch")
    made.add_argument("--out", type=Path, help="write the numbers as JSON")
    return made


def settings(given: argparse.Namespace) -> Settings:
    """What :func:`parser` read."""
    return Settings(
        data=given.data,
        model=given.model,
        steps=given.steps,
        repeats=given.repeats,
        precision=given.precision,
        phrases=given.phrases,
        batch_size=given.batch_size,
    )


def main(argv: Sequence[str] | None = None) -> dict[str, list[Row]]:
    options = parser(__doc__)
    options.add_argument("--only", choices=SECTIONS, action="append", help="this section; may be given again")
    given = options.parse_args(argv)
    torch.set_num_threads(given.threads)
    console = Console() if sys.stdout.isatty() else Console(width=160)
    about = machine(given.threads, given.precision)
    console.print("  ".join(f"{name} {value}" for name, value in about.items()), highlight=False)
    results = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in given.only or SECTIONS:
            title, section = SECTIONS[name]
            results[name] = section(settings(given))
            show(title, results[name], console)
    if given.out:
        write(given.out, about, asdict(settings(given)), results)
    return results


if __name__ == "__main__":
    main()
