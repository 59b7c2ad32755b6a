#!/usr/bin/env python
"""How long a training step waits for a checkpoint, and what it costs while it is written.

    python scripts/bench_checkpoint.py [--megabytes 200] [--repeats 7] [--folder FOLDER]

Ours, written in the background, beside Lightning's own writer and a bare ``torch.save``: medians of one run, in turn.
The folder decides what is measured: a temporary one may lie in memory.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning_fabric.plugins.io import TorchCheckpointIO
from rich.console import Console
from rich.table import Table

from distill.run.checkpoints.file import SafeCheckpointIO, is_intact
from distill.run.checkpoints.snapshot import snapshot

_TENSORS = 40


def main(argv: Sequence[str] | None = None) -> dict[str, float]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=200, help="size of the checkpoint (%(default)s)")
    parser.add_argument("--repeats", type=int, default=7, help="(%(default)s)")
    parser.add_argument("--folder", type=Path, help="where to write; a temporary folder if not given")
    given = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        figures = measure(Path(folder), given.megabytes * 10**6, given.repeats)
    table = Table(
        title=f"a checkpoint of {given.megabytes} MB, medians of {given.repeats}, seconds", title_justify="left"
    )
    table.add_column("")
    table.add_column("seconds", justify="right")
    for name, seconds in figures.items():
        table.add_row(name, f"{seconds:.3f}")
    Console(width=120).print(table)
    return figures


def measure(folder: Path, size: int, repeats: int) -> dict[str, float]:
    """Median seconds of each contender."""
    state = {str(i): torch.randn(size // 4 // _TENSORS) for i in range(_TENSORS)}
    ours, theirs = SafeCheckpointIO(), TorchCheckpointIO()
    step = _step()
    times: dict[str, list[float]] = {}

    def timed(name: str, action: Callable[[], Any]) -> None:
        start = time.perf_counter()
        action()
        times.setdefault(name, []).append(time.perf_counter() - start)

    for _ in range(repeats):
        timed("torch.save and fsync: the step waits", lambda: _plain(state, folder / "plain.ckpt"))
        timed("Lightning's writer: the step waits", lambda: theirs.save_checkpoint(state, folder / "theirs.ckpt"))
        timed("a copy of the tensors, the least that ours waits for", lambda: snapshot(state))
        timed("ours: the step waits", lambda: ours.save_checkpoint(state, folder / "ours.ckpt"))
        timed("ours: until it is on the disk, hashed", ours.flush)
        timed("ours: verified when it is read", lambda: is_intact(folder / "ours.ckpt"))
        timed("20 steps of arithmetic", lambda: _steps(step))
        ours.save_checkpoint(state, folder / "ours.ckpt")
        timed("20 steps of arithmetic while ours is written", lambda: _steps(step))
        ours.flush()
    return {name: statistics.median(values) for name, values in times.items()}


def _plain(state: Any, path: Path) -> None:
    with path.open("wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())


def _step() -> Callable[[], Any]:
    a, b = torch.randn(1024, 1024), torch.randn(1024, 1024)
    return lambda: a @ b


def _steps(step: Callable[[], Any]) -> None:
    for _ in range(20):
        step()


if __name__ == "__main__":
    main()
