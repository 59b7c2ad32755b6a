"""Run by test_ranks.py: on two ranks, train a run undisturbed and stop another one, resume that, or extend it."""

from __future__ import annotations

import json
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

STEPS, STOP = 8, 5  # of the first run; of the second when it is told to stop


def watch(seen: list[list[int]], stop: int) -> None:
    """Take down which samples this rank trains on; the second rank, and no other, is told to stop in a step."""
    original = Distillation.training_step

    def step(self: Any, raw_batch: Any, batch_idx: int) -> Any:
        seen.append(list(raw_batch.ids))
        if len(seen) == stop and self.global_rank == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return original(self, raw_batch, batch_idx)

    Distillation.training_step = step  # type: ignore[method-assign]


def main(phase: str, folder: Path) -> None:
    # A machine with two devices, of which `devices: auto` takes all.
    CPUAccelerator.auto_device_count = staticmethod(lambda: 2)  # type: ignore[method-assign]
    if phase == "train":
        config, seen = load([str(folder / "base.yaml")]), []  # type: ignore[var-annotated]
        watch(seen, STEPS + STOP)
        fit(config, run_id="whole")
        (folder / f"seen-{os.environ.get('LOCAL_RANK', 0)}.json").write_text(json.dumps(seen))
        fit(config, run_id="stopped")
    elif phase == "resume":
        resume(folder / "runs/base/stopped")
    else:
        resume(folder / "runs/base/whole", overrides=[("trainer.max_epochs", "3")])


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
