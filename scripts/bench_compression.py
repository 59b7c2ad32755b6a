#!/usr/bin/env python
"""What pruning and quantization-aware training cost a training step.

    python scripts/bench_compression.py [--data FOLDER] [--model FOLDER] [--out FILE]

Needs the folder of SST-2 (``DISTILL_DATA``/sst2 if not given) and a quiet machine.
Takes about three minutes on two cores.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import asdict

import torch
from bench.compression_cost import compression_cost
from bench.pair import sst2
from bench.report import Row, machine, show, write
from bench_training import parser, settings
from rich.console import Console


def main(argv: Sequence[str] | None = None) -> list[Row]:
    given = parser(__doc__, steps=20).parse_args(argv)
    torch.set_num_threads(given.threads)
    console = Console() if Console().is_terminal else Console(width=160)
    about = machine(given.threads, given.precision)
    console.print("  ".join(f"{name} {value}" for name, value in about.items()), highlight=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        rows = compression_cost(sst2(settings(given)), settings(given))
    show("Pruning and quantization-aware training, the 3-layer student on SST-2", rows, console)
    if given.out:
        write(given.out, about, asdict(settings(given)), {"compression": rows})
    return rows


if __name__ == "__main__":
    main()
