#!/usr/bin/env python
"""What pruning and quantization-aware training cost a training step, and the same of torchao.

    python scripts/bench_compression.py [--data FOLDER] [--model FOLDER] [--only SECTION] [--out FILE]

Needs the folder of SST-2 (``DISTILL_DATA``/sst2 if not given; ``--only torchao`` needs none) and a quiet machine. The
peer is measured where it is installed: ``pip install --no-deps torchao``. Takes about six minutes on two cores.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict

import torch
from bench.compression_cost import compression_cost
from bench.pair import Settings, sst2
from bench.report import Row, machine, show, write
from bench.torchao_cost import torchao_cost
from bench_training import parser, settings
from rich.console import Console

SECTIONS: dict[str, tuple[str, Callable[[Settings], list[Row]]]] = {
    "compression": (
        "Pruning and quantization-aware training, the 3-layer student on SST-2",
        lambda given: compression_cost(sst2(given), given),
    ),
    "torchao": ("Int4 weights in groups of 32 and int8 inputs by token, beside torchao", torchao_cost),
}


def main(argv: Sequence[str] | None = None) -> dict[str, list[Row]]:
    options = parser(__doc__, steps=20)
    options.add_argument("--only", choices=SECTIONS, action="append", help="this section; may be given again")
    given = options.parse_args(argv)
    torch.set_num_threads(given.threads)
    console = Console() if Console().is_terminal else Console(width=160)
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
