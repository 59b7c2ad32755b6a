"""Run by test_runs.py, on two ranks: train two runs, of which one is stopped; or resume those that were."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

from pytorch_lightning.accelerators import CPUAccelerator

from distill.config.files import load
from distill.training.module import Distillation
from distill.workflows.fit import fit
from distill.workflows.resume import resume

STOP = 9  # the micro-batch, the first of two, in which the second run is told to stop


def stop_second_rank() -> None:
    """Have it, and no other, be told to stop; from here on."""
    original, seen = Distillation.training_step, iter(range(1, 1000))

    def step(self: Any, raw_batch: Any, batch_idx: int) -> Any:
        if next(seen) == STOP and self.global_rank == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return original(self, raw_batch, batch_idx)

    Distillation.training_step = step  # type: ignore[method-assign]


def main(folder: Path, names: list[str]) -> None:
    # A machine with two devices, of which `devices: auto` takes all.
    CPUAccelerator.auto_device_count = staticmethod(lambda: 2)  # type: ignore[method-assign]
    for name in names:
        resume(folder / "runs/base" / name)
    if not names:
        config = load([str(folder / "base.yaml")])
        fit(config, run_id="whole")
        stop_second_rank()
        fit(config, run_id="stopped")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
