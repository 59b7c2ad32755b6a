"""Checkpoints that are asked for while gradients are accumulated."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from pytorch_lightning import Callback, Trainer
from pytorch_lightning.utilities.exceptions import SIGTERMException

from distill.callbacks import Determinism, ResumeCheckpoint
from distill.run.checkpoints.file import SafeCheckpointIO, read
from distill.run.checkpoints.names import resume_checkpoints


class AtBatch(Callback):
    """Does something when so many batches were trained."""

    def __init__(self, count: int, action: Callable[[], object]) -> None:
        self.count, self.action = count, action

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        if trainer.fit_loop.epoch_loop.total_batch_idx + 1 == self.count:
            self.action()


@pytest.mark.parametrize(
    ("why", "micro_batch", "of"),
    [("SIGTERM", 1, 4), ("SIGTERM", 2, 4), ("SIGTERM", 3, 4), ("SIGTERM", 1, 2), ("minutes", 1, 2)],
)
def test_a_checkpoint_never_stands_inside_an_accumulation(
    why: str, micro_batch: int, of: int, convolutions: Any, differences: Callable[[Any, Any], list[str]], tmp_path: Path
) -> None:
    """Half of its gradients would be lost: asked for between two micro-batches, it waits until the step is done."""

    def fit(name: str, *callbacks: Callback, resume: Path | None = None) -> dict[int, Path]:
        trainer = {"max_epochs": 3, "accumulate_grad_batches": of, "plugins": [SafeCheckpointIO()]}
        with suppress(SIGTERMException):
            convolutions.fit(tmp_path / name, *callbacks, resume=resume, **trainer)
        return resume_checkpoints(tmp_path / name / "checkpoints")

    whole = fit("whole", ResumeCheckpoint(keep=10, every_n_steps=1), Determinism())
    last = ResumeCheckpoint(keep=10)
    stop = {
        "SIGTERM": partial(os.kill, os.getpid(), signal.SIGTERM),
        "minutes": partial(setattr, last, "minutes", 1e-9),
    }
    asked = fit("asked", last, Determinism(), AtBatch(of + micro_batch, stop[why]))
    assert max(asked) == {"SIGTERM": 2, "minutes": 12 // of}[why]
    assert len(whole) == 12 // of
    for step, path in asked.items():
        assert differences(read(whole[step]), read(path)) == []
