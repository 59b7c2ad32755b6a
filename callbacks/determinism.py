"""Randomness as a function of the position in the run."""

from __future__ import annotations

from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer

from distill.core.generators import reseed, seed_at
from distill.core.internals.lightning import batches_begun

__all__ = ["Determinism"]


class Determinism(Callback):
    """Reseed every generator before each training batch from ``(seed, batch, rank)``.

    Dropout and whatever else is random in a step then depends on the batch's number in the run alone. A
    resumed run needs no generator's state restored, and validation in between changes nothing.

    Args:
        seed: The run's seed.
    """

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        done = batches_begun(trainer)
        reseed(seed_at(self.seed, done, trainer.global_rank))
