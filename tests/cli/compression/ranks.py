"""Run by test_one_run.py: fit a configuration; each process saves what it has at the end, and what it wrote."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Callback, Trainer

from distill.config.files import load
from distill.models import saved_student
from distill.workflows import fit as launch
from distill.workflows.job.build import build


class Keep(Callback):
    """Saves the student's state of this rank, masks and ranges included, when training ends."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_train_end(self, trainer: Trainer, pl_module: Any) -> None:
        torch.save(pl_module.student.state_dict(), self.folder / f"trained.{trainer.global_rank}")


def main(config: str, folder: Path) -> None:
    jobs, saved = [], []
    save = saved_student.save

    def building(*given: Any, **named: Any) -> Any:
        jobs.append(build(*given, **named))
        jobs[0].callbacks.append(Keep(folder))
        return jobs[0]

    def saving(*given: Any) -> None:
        saved.append(str(given[1]))
        save(*given)

    launch.build, saved_student.save = building, saving  # type: ignore[assignment]
    launch.fit(load([config]), run_id="one")
    rank = jobs[0].module.global_rank
    torch.save({"student": jobs[0].module.student.state_dict(), "saved": saved}, folder / f"finished.{rank}")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
