"""Structured pruning resumes from a checkpoint, and is validated from one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning import Callback, Trainer
from torch.utils.data import DataLoader

from distill.callbacks import StructuredPruning

Make = Callable[..., Any]


class Stop(Callback):
    """Stops after a step; the run was planned to be longer."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        trainer.should_stop = trainer.global_step >= self.step


@pytest.mark.parametrize("criterion", ["magnitude", "taylor", "activation"])
@pytest.mark.parametrize("scope", ["layer", "global"])
def test_a_resumed_run_ends_bit_for_bit_like_the_undisturbed_one(
    tmp_path: Path, criterion: Any, scope: Any, classifier: Make, batches: Make, pair: Make, fit: Make
) -> None:
    def pruning() -> StructuredPruning:
        return StructuredPruning(0.5, 0.5, 0.25, 1, criterion, scope, begin=2, end=7, every_n_steps=2)

    same = [batches(1)[0]] * 12  # a plain loader does not know where it was
    module = pair(classifier())
    fit(module, pruning(), rows=same)
    begun = pair(classifier())
    fit(begun, pruning(), Stop(5), rows=same).save_checkpoint(tmp_path / "five.ckpt")
    rest = pair(classifier(seed=5))
    fit(rest, pruning(), resume=tmp_path / "five.ckpt", rows=same)
    left, right = module.student.state_dict(), rest.student.state_dict()
    assert left.keys() == right.keys()
    assert all(torch.equal(left[name], right[name]) for name in left)
    assert any(not mask.all() for name, mask in begun.student.named_buffers() if name.endswith("_mask"))


def test_a_checkpoint_is_validated_by_a_trainer_that_never_trained(
    tmp_path: Path, classifier: Make, batches: Make, pair: Make, fit: Make, logits: Make
) -> None:
    def pruning() -> StructuredPruning:
        return StructuredPruning(heads=0.5, hidden=0.3, layers=1, end=4, every_n_steps=1)

    module, fresh = pair(classifier()), pair(classifier(seed=1))
    trainer = fit(module, pruning(), max_steps=6)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    other = Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, callbacks=[pruning()])
    data = DataLoader(batches(2), batch_size=None)  # type: ignore[arg-type]
    other.validate(fresh, data, ckpt_path=tmp_path / "last.ckpt", verbose=False, weights_only=True)
    assert torch.equal(logits(fresh.student), logits(module.student))
