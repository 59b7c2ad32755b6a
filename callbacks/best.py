"""The checkpoint of the best validation."""

from __future__ import annotations

from pytorch_lightning import Trainer
from pytorch_lightning.callbacks import ModelCheckpoint

from distill.callbacks.compression import compressions

__all__ = ["Best"]


class Best(ModelCheckpoint):
    """A ``ModelCheckpoint`` for which only a student that is as small as asked for can be the best.

    A student half way through gradual pruning is often better than the one that is shipped; kept as the best, it
    would be shipped in its place.
    """

    def _should_skip_saving_checkpoint(self, trainer: Trainer) -> bool:
        total = int(trainer.lightning_module.total_steps)  # type: ignore[arg-type]
        done = all(compression.complete(trainer.global_step, total) for compression in compressions(trainer))
        return not done or super()._should_skip_saving_checkpoint(trainer)
