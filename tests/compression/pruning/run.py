"""Run by test_ranks.py: runs on two ranks with different data, pruned; each rank saves its student's state."""

from __future__ import annotations

import sys
from typing import Any

import torch
from pytorch_lightning import Callback, Trainer
from pytorch_lightning.strategies import DDPStrategy
from torch import nn
from torch.utils.data import DataLoader

from distill.callbacks import ExponentialMovingAverage, GradualMagnitudePruning
from distill.losses import CrossEntropy
from distill.tasks import Plain
from distill.training.module import Distillation
from distill.training.optimizer import OptimizerConfig


class Keep(Callback):
    """Saves the student's state, masks and all, after training."""

    def __init__(self, path: str) -> None:
        self.path = path

    def on_train_end(self, trainer: Trainer, pl_module: Any) -> None:
        state = pl_module.student.state_dict()
        average = next(c for c in trainer.callbacks if isinstance(c, ExponentialMovingAverage)).state_dict()
        torch.save({"state": state, "average": average}, f"{self.path}.{trainer.global_rank}")


class Own(DataLoader[Any]):
    """Batches of each rank's own, of sizes that differ."""

    def __iter__(self) -> Any:
        rank = torch.distributed.get_rank()
        generator = torch.Generator().manual_seed(rank)
        for _ in range(20):
            x = torch.randn(3 + rank, 8, generator=generator) * (1 + 5 * rank)
            yield x, x.argmax(1) % 3


def main(criterion: Any, out: str) -> None:
    torch.manual_seed(0)
    student = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 3))
    module = Distillation(student, Plain(), None, [CrossEntropy()], OptimizerConfig(lr=0.02, warmup=0))
    pruning = GradualMagnitudePruning(
        0.6, begin=1, end=8, every_n_steps=2, criterion=criterion, regrow=0.3 if criterion == "magnitude" else 0.0
    )
    Trainer(
        accelerator="cpu",
        devices=2,
        strategy=DDPStrategy(process_group_backend="gloo"),
        use_distributed_sampler=False,
        max_steps=10,
        accumulate_grad_batches=2,
        gradient_clip_val=0.5,
        logger=False,
        log_every_n_steps=1,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[pruning, ExponentialMovingAverage(0.9), Keep(out)],
    ).fit(module, Own(range(20), batch_size=None))  # type: ignore[arg-type]


if __name__ == "__main__":
    for criterion in sys.argv[2:]:
        main(criterion, f"{sys.argv[1]}-{criterion}")
