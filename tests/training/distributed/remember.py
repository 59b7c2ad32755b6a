"""Run by test_ranks.py: a remembered teacher on two ranks, the checkpoint, and what comes back from it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Callback, Trainer
from pytorch_lightning.strategies import DDPStrategy
from torch import nn
from torch.utils.data import DataLoader

from distill.core.signals import Batch
from distill.losses import HintonKL
from distill.tasks import Plain
from distill.training.module import Distillation
from distill.training.optimizer import OptimizerConfig


class Deal(DataLoader[Any]):
    """Rank r gets samples 4r to 4r + 3."""

    def __iter__(self) -> Any:
        first = 4 * torch.distributed.get_rank()
        ids = list(range(first, first + 4))
        inputs = torch.arange(4.0).repeat(4, 1) + torch.tensor(ids)[:, None]
        return iter([Batch({"input": inputs}, ids=ids)])


class Recalled(Callback):
    """Saves what this rank remembers when training continues."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        torch.save(pl_module.teacher.state_dict(), f"{self.path}.{trainer.global_rank}")


def main(folder: Path) -> None:
    checkpoint = folder / "run.ckpt"
    for resumed in (False, True):
        torch.manual_seed(0)
        optimizer = OptimizerConfig(name="sgd", lr=0.1, warmup=0)
        module = Distillation(nn.Linear(4, 3), Plain(), nn.Linear(4, 3), [HintonKL()], optimizer)
        trainer = Trainer(
            accelerator="cpu",
            devices=2,
            strategy=DDPStrategy(process_group_backend="gloo"),
            use_distributed_sampler=False,
            max_steps=2 if resumed else 1,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            callbacks=[Recalled(folder / "recalled")] if resumed else [],
        )
        trainer.fit(module, Deal(range(1), batch_size=None), ckpt_path=checkpoint if resumed else None)  # type: ignore[arg-type]
        trainer.save_checkpoint(checkpoint)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
