"""Run by test_ranks.py: one optimizer step on eight uneven sequences, on as many ranks as told; saves the gradient.

And what the validation of the same sequences has measured.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Callback, Trainer
from pytorch_lightning.strategies import DDPStrategy
from torch import nn
from torch.utils.data import DataLoader

from distill.core.signals import IGNORE, Batch
from distill.losses import CrossEntropy, HintonKL
from distill.tasks import Plain
from distill.training.module import Distillation
from distill.training.optimizer import OptimizerConfig


class Keep(Callback):
    """Saves the gradient that the first step used."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        def keep(*_: Any) -> None:
            torch.save(pl_module.student.weight.grad.clone(), f"{self.path}.{trainer.global_rank}")

        trainer.optimizers[0].register_step_post_hook(keep)


def micro_batches() -> list[Batch]:
    """Eight sequences in four batches; 1, 2, ... 8 positions count."""
    generator = torch.Generator().manual_seed(3)
    ids = torch.randint(0, 7, (8, 8), generator=generator)
    labels = torch.randint(0, 7, (8, 8), generator=generator)
    labels[torch.arange(8)[None, :] > torch.arange(8)[:, None]] = IGNORE
    return [
        Batch({"input": ids[i : i + 2]}, labels=labels[i : i + 2], mask=labels[i : i + 2] != IGNORE)
        for i in (0, 2, 4, 6)
    ]


class Deal(DataLoader[Any]):
    """Deals the micro-batches to the ranks."""

    def __iter__(self) -> Any:
        rank = torch.distributed.get_rank() if torch.distributed.is_initialized() else 0
        world = torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1
        return iter(micro_batches()[rank::world])


def main(ranks: int, out: Path) -> None:
    torch.manual_seed(0)
    module = Distillation(
        nn.Embedding(7, 7),
        Plain(),
        nn.Embedding(7, 7),
        [CrossEntropy(weight=0.5), HintonKL()],
        OptimizerConfig(name="sgd", lr=0.1, warmup=0),
    )
    trainer = Trainer(
        accelerator="cpu",
        devices=ranks,
        strategy=DDPStrategy(process_group_backend="gloo") if ranks > 1 else "auto",
        use_distributed_sampler=False,
        max_steps=1,
        accumulate_grad_batches=4 // ranks,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        callbacks=[Keep(out)],
    )
    loader = Deal(range(4 // ranks), batch_size=None)  # type: ignore[arg-type]
    trainer.fit(module, loader, loader)
    Path(f"{out}.{trainer.global_rank}.json").write_text(json.dumps(module.evidence.found))


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
