"""Run by test_ranks.py: on two ranks, train a run undisturbed and stop another one, or resume that."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

from pytorch_lightning.accelerators import CPUAccelerator

from distill.config import load
from distill.launch import fit
from distill.module import Distillation
from distill.resume import resume

STOP = 5


def stop_in_step(count: int) -> None:
    """Have the second rank, and no other, be told to stop in its step of this number."""
    original, calls = Distillation.training_step, iter(range(1, 1000))

    def step(self: Any, *given: Any) -> Any:
        if next(calls) == count and self.global_rank == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return original(self, *given)

    Distillation.training_step = step  # type: ignore[method-assign]


def main(phase: str, folder: Path) -> None:
    # A machine with two devices, of which `devices: auto` takes all.
    CPUAccelerator.auto_device_count = staticmethod(lambda: 2)  # type: ignore[method-assign]
    if phase == "train":
        config = load([str(folder / "base.yaml")])
        fit(config, run_id="whole")
        stop_in_step(STOP)
        fit(config, run_id="stopped")
    else:
        resume(folder / "runs/base/stopped")
        resume(folder / "runs/base/stopped", overrides=[("trainer.max_epochs", "3")])


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
