"""What callbacks that act after optimizer steps have in common."""

from __future__ import annotations

from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer

__all__ = ["StepCallback", "logged", "logs_now", "total_steps"]


class StepCallback(Callback):
    """A callback that acts when an optimizer step is done, and not while gradients are accumulated."""

    _step: int = 0  # the last one that was acted upon

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._step = trainer.global_step

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step == self._step:
            return  # gradients are still accumulated
        self._step = trainer.global_step
        self.on_step_end(trainer, pl_module)

    def on_step_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Called after every optimizer step, before validation and checkpoints."""
        return


def total_steps(pl_module: LightningModule) -> int:
    """How many optimizer steps the run has."""
    total = pl_module.total_steps
    assert isinstance(total, int)
    return total


def logs_now(trainer: Trainer) -> bool:
    """Whether figures of the step just done are logged."""
    return logged(trainer, trainer.global_step)


def logged(trainer: Trainer, step: int) -> bool:
    """Whether figures of an optimizer step (the first is 1) are logged: of every so many, and of ``max_steps``.

    At that one Lightning logs whatever it has, which would be figures of an earlier step.
    """
    every = trainer.log_every_n_steps  # type: ignore[attr-defined]
    return bool(every) and (step % every == 0 or step == trainer.max_steps)
