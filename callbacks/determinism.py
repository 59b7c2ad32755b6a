"""Randomness as a function of the position in the run."""

from __future__ import annotations

import random
from hashlib import blake2b
from typing import Any

import numpy
import torch
from pytorch_lightning import Callback, LightningModule, Trainer

__all__ = ["Determinism", "seed_at"]


def seed_at(seed: int, batch: int, rank: int) -> int:
    """A 63-bit seed for one batch on one rank: a hash, so that neighbours have nothing in common."""
    digest = blake2b(f"{seed}/{batch}/{rank}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


class Determinism(Callback):
    """Reseed every generator before each training batch from ``(seed, batch, rank)``.

    Dropout and whatever else is random in a step then depends on the batch's number in the run alone. A
    resumed run needs no generator's state restored, and validation in between changes nothing.

    Args:
        seed: The run's seed.
    """

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed
        self._accelerated = torch.accelerator.is_available()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        done = trainer.fit_loop.epoch_loop.total_batch_idx
        seed = seed_at(self.seed, done, trainer.global_rank)
        random.seed(seed)
        numpy.random.seed(seed % 2**32)
        if self._accelerated:
            torch.manual_seed(seed)
        else:  # the same, without the stack trace that manual_seed formats for each kind of device that is not there
            torch.default_generator.manual_seed(seed)
