"""Run by test_scores.py: movement pruning on the same sequences, sharded over as many ranks as given."""

from __future__ import annotations

import sys
from typing import Any

import torch
from pytorch_lightning import Trainer
from pytorch_lightning.strategies import DDPStrategy
from torch import Tensor, nn
from torch.utils.data import DataLoader

from distill.callbacks import GradualMagnitudePruning
from distill.core.signals import IGNORE, Batch
from distill.losses import CrossEntropy, HintonKL
from distill.tasks import Plain
from distill.training.module import Distillation
from distill.training.optimizer import OptimizerConfig

STEPS = 3


def sequences() -> tuple[Tensor, Tensor]:
    """Token ids and labels of eight sequences a step, of which 1, 2, ... 8 positions count."""
    generator = torch.Generator().manual_seed(3)
    ids, labels = torch.randint(0, 7, (2, 8 * STEPS, 8), generator=generator)
    return ids, labels.where(torch.arange(8) <= torch.arange(8 * STEPS)[:, None] % 8, IGNORE)


class Deal(DataLoader[Any]):
    """Deals micro-batches of one size to the ranks."""

    size = 8

    def __iter__(self) -> Any:
        rank, world = 0, 1
        if torch.distributed.is_initialized():
            rank, world = torch.distributed.get_rank(), torch.distributed.get_world_size()
        ids, labels = sequences()
        cuts = [slice(at, at + self.size) for at in range(0, len(ids), self.size)]
        return iter(
            [Batch({"input": ids[cut]}, labels=labels[cut], mask=labels[cut] != IGNORE) for cut in cuts[rank::world]]
        )


def net() -> nn.Module:
    return nn.Sequential(nn.Embedding(7, 6), nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 7))


def scores(size: int, ranks: int = 1, steps: int = STEPS) -> dict[str, Tensor]:
    """The student's state, scores and all, trained with micro-batches of ``size`` sequences."""
    torch.manual_seed(0)
    module = Distillation(
        net(),
        Plain(),
        net(),
        [CrossEntropy(weight=0.5), HintonKL(temperature=1.0)],
        OptimizerConfig(name="sgd", lr=0.1, warmup=0),
    )
    loader = Deal(range(8 * STEPS // size // ranks), batch_size=None)  # type: ignore[arg-type]
    loader.size = size
    Trainer(
        accelerator="cpu",
        devices=ranks,
        strategy=DDPStrategy(process_group_backend="gloo") if ranks > 1 else "auto",
        use_distributed_sampler=False,
        max_steps=steps,
        accumulate_grad_batches=8 // size // ranks,
        gradient_clip_val=0.5,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[GradualMagnitudePruning(0.5, begin=steps, schedule="one_shot", criterion="movement")],
    ).fit(module, loader)
    return {name: value.clone() for name, value in module.student.state_dict().items()}


if __name__ == "__main__":
    found = scores(int(sys.argv[1]), int(sys.argv[2]))
    rank = torch.distributed.get_rank() if torch.distributed.is_initialized() else 0
    torch.save(found, f"{sys.argv[3]}.{rank}")
