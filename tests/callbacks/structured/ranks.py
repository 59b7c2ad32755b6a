"""Run by test_masks.py: structured pruning on two ranks, once for each of the settings; saves the students' states."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Callback, Trainer
from pytorch_lightning.strategies import DDPStrategy
from torch.utils.data import DataLoader

from distill.callbacks import StructuredPruning

sys.path.insert(0, str(Path(__file__).parents[1]))

from conftest import batches, classifier, fit, pair


class Keep(Callback):
    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_end(self, trainer: Trainer, pl_module: Any) -> None:
        torch.save(pl_module.student.state_dict(), f"{self.path}.{trainer.global_rank}")


class Deal(DataLoader[Any]):
    """Deals the micro-batches to the ranks."""

    def __iter__(self) -> Any:
        return iter(batches(4)[torch.distributed.get_rank() :: 2])


def main(out: Path, student: dict[str, Any], settings: list[dict[str, Any]]) -> None:
    for number, arguments in enumerate(settings):
        fit(
            pair(classifier(**student)),
            StructuredPruning(**arguments),
            Keep(Path(f"{out}.{number}")),
            loader=Deal(range(2), batch_size=None),  # type: ignore[arg-type]
            devices=2,
            strategy=DDPStrategy(process_group_backend="gloo"),
            use_distributed_sampler=False,
            max_steps=2,
        )


if __name__ == "__main__":
    main(Path(sys.argv[1]), json.loads(sys.argv[2]), json.loads(sys.argv[3]))
