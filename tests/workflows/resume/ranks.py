"""Run by test_ranks.py: on two ranks, train runs undisturbed, stop or kill others, resume these, or extend them."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from pytorch_lightning.accelerators import CPUAccelerator

from distill.cli.main import main as distill
from distill.config.files import load
from distill.training.module import Distillation
from distill.workflows.fit import fit
from distill.workflows.resume import resume

STEPS, STOP = 8, 5  # of the first run; of the one that is told to stop
KILLED = {"kill": ("training_step", 6), "kill-again": ("validation_step", 7)}  # where, and the steps done by then


def watch(seen: list[list[int]], stop: int) -> None:
    """Take down which samples this rank trains on; the second rank, and no other, is told to stop in a step."""
    original = Distillation.training_step

    def step(self: Any, raw_batch: Any, batch_idx: int) -> Any:
        seen.append(list(raw_batch.ids))
        if len(seen) == stop and self.global_rank == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return original(self, raw_batch, batch_idx)

    Distillation.training_step = step  # type: ignore[method-assign]


def die(place: str, steps: int) -> None:
    """Have every rank kill itself as it comes to a place with so many steps done."""
    original = getattr(Distillation, place)

    def step(self: Any, *given: Any) -> Any:
        if self.global_step == steps:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(self, *given)

    setattr(Distillation, place, step)


def train(folder: Path) -> None:
    """Two undisturbed runs, the second with dropout, and one like the first that is stopped."""
    fit(load([str(folder / "dropout.yaml")]), run_id="whole")
    plain, seen = load([str(folder / "base.yaml")]), []  # type: ignore[var-annotated]
    watch(seen, STEPS + STOP)
    fit(plain, run_id="whole")
    (folder / f"seen-{os.environ.get('LOCAL_RANK', 0)}.json").write_text(json.dumps(seen))
    fit(plain, run_id="stopped")


def main(phase: str, folder: Path) -> None:
    # A machine with two devices, of which `devices: auto` takes all.
    CPUAccelerator.auto_device_count = staticmethod(lambda: 2)  # type: ignore[method-assign]
    job = ["fit", "-c", str(folder / "dropout.yaml"), "--id", "killed", "--resume", "auto"]
    if phase == "train":
        train(folder)
    elif phase in KILLED:
        die(*KILLED[phase])
        distill(job)
    elif phase == "resume":
        resume(folder / "runs/base/resumed")
        assert distill(job) == 0
    else:
        resume(folder / "runs/base/extended", overrides=[("trainer.max_epochs", "3")])


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
