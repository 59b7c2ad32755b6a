"""The promises of randomness as a function of the position in the run."""

from __future__ import annotations

import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy
import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader

from distill.callbacks import Determinism
from distill.core.generators import seed_at


class Noisy(LightningModule):
    """Draws a number in every training step, and more in validation."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))
        self.drawn: list[float] = []

    def training_step(self, batch: Tensor, index: int) -> Tensor:
        self.drawn.append(torch.rand(()).item())
        return self.weight * 0

    def validation_step(self, batch: Tensor, index: int) -> None:
        torch.rand(17)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.0)


def drawn(
    folder: Path, *callbacks: Callback, validate: bool = True, resume: str | None = None, **limits: Any
) -> list[float]:
    module = Noisy()
    loader = DataLoader(torch.zeros(6, 1), batch_size=1)  # type: ignore[arg-type]
    trainer = Trainer(
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        callbacks=list(callbacks),
        **({"max_epochs": 2} | limits),
    )
    trainer.fit(module, loader, loader if validate else None, ckpt_path=resume, weights_only=True)
    if resume is None:
        trainer.save_checkpoint(folder / "last.ckpt")
    return module.drawn


def test_every_batch_draws_anew(tmp_path: Path) -> None:
    numbers = drawn(tmp_path, Determinism(3))
    assert len(numbers) == len(set(numbers)) == 12


def test_validation_and_earlier_draws_change_nothing(tmp_path: Path) -> None:
    first = drawn(tmp_path, Determinism(3))
    torch.rand(5)
    assert drawn(tmp_path, Determinism(3), validate=False) == first
    assert drawn(tmp_path, Determinism(4)) != first


def test_a_resumed_run_draws_what_the_undisturbed_run_drew(tmp_path: Path) -> None:
    whole = drawn(tmp_path, Determinism(3))
    begun = drawn(tmp_path, Determinism(3), max_epochs=1)
    rest = drawn(tmp_path, Determinism(3), resume=str(tmp_path / "last.ckpt"))
    assert begun + rest == whole


def test_ranks_and_neighbouring_batches_draw_different_numbers() -> None:
    seeds = {seed_at(0, batch, rank) for batch in range(100) for rank in range(4)}
    assert len(seeds) == 400


def test_every_generator_depends_on_the_batch_and_the_rank_alone() -> None:
    def draws(batch: int, rank: int) -> list[float]:
        loop = SimpleNamespace(epoch_loop=SimpleNamespace(total_batch_idx=batch))
        trainer: Any = SimpleNamespace(fit_loop=loop, global_rank=rank)
        Determinism(3).on_train_batch_start(trainer, None, None, 0)  # type: ignore[arg-type]
        return [random.random(), float(numpy.random.rand()), float(torch.rand(()))]

    first, again, on_another_rank, next_batch = draws(5, 0), draws(5, 0), draws(5, 1), draws(6, 0)
    assert again == first
    for other in (on_another_rank, next_batch):
        assert all(a != b for a, b in zip(first, other, strict=True))
