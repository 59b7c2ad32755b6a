"""A line now and then, where no progress bar shows how far a run or a validation is."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer

from distill.core.internals.lightning import accumulates
from distill.core.ranks import is_rank_zero
from distill.core.utils.console import clock, duration, number
from distill.core.utils.progress import due
from distill.core.utils.words import amount
from distill.training.module import Distillation

__all__ = ["ProgressLines"]

_FIRST_SECONDS = 10.0
"""From the beginning to the first line."""


class ProgressLines(Callback):
    """Prints step, loss, samples a second, the time left and when that will be: every minute, at every tenth of the
    run, and as soon as ten seconds of it are done.

    Of a validation or test it prints the batches that are done, as often.

    Samples a second and the time left are judged by all of the training so far, validation included. The loss
    is the last one logged.
    """

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._started = self._said = time.monotonic()
        self._first, self._samples = trainer.global_step, 0

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        assert isinstance(pl_module, Distillation)
        self._samples += pl_module.task.batch(batch).size * trainer.world_size
        if accumulates(trainer):
            return
        now, step, total = time.monotonic(), trainer.global_step, pl_module.total_steps
        first = self._said == self._started and now - self._started >= _FIRST_SECONDS
        if not (first or due(step, total, now - self._said)):
            return
        self._said = now
        if is_rank_zero():
            print(self._line(trainer, step, total, now - self._started), flush=True)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._validating = time.monotonic()

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._validating = time.monotonic()

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int, *_: Any
    ) -> None:
        if not trainer.sanity_checking:
            self._scored("validated", batch_idx + 1, trainer.num_val_batches)

    def on_test_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int, *_: Any
    ) -> None:
        self._scored("tested", batch_idx + 1, trainer.num_test_batches)

    def _scored(self, what: str, done: int, batches: Sequence[int | float]) -> None:
        total, now = sum(batches), time.monotonic()
        if math.isfinite(total) and due(done, int(total), now - self._validating):
            self._validating = now
            if is_rank_zero():
                print(f"{what} {done:,} of {amount(int(total), 'batch')}", flush=True)

    def _line(self, trainer: Trainer, step: int, total: int, seconds: float) -> str:
        loss = trainer.callback_metrics.get("train/loss")
        left = seconds / (step - self._first) * (total - step)
        parts = [
            *([] if loss is None else [f"loss {number(float(loss))}"]),
            f"{number(self._samples / seconds)} samples/s",
            f"{duration(left)} left" + (f", until {clock(left)}" if step < total else ""),
        ]
        return f"step {step:,} of {total:,} ({100 * step // total} %): {', '.join(parts)}"
