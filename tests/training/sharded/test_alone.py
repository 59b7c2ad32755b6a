"""What a sharded run of one process, under a bare Trainer, promises of its end."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning import Callback, Trainer
from torch import nn
from torch.utils.data import DataLoader

from distill.callbacks import ResumeCheckpoint
from distill.core.utils.quiet import quiet_lightning
from distill.run.checkpoints.file import read
from distill.run.checkpoints.names import resume_checkpoints
from distill.tasks import Plain
from distill.training.module import Distillation
from distill.training.optimizer import OptimizerConfig
from distill.training.sharding import Sharded

STOP = 3  # of 16

pytestmark = pytest.mark.usefixtures("leaves_no_trace")


class At(Callback):
    """Does something after so many steps."""

    def __init__(self, step: int, action: Callable[[Trainer], object]) -> None:
        self.step, self.action = step, action

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        if trainer.global_step == self.step:
            self.action(trainer)


def stop(trainer: Trainer) -> None:
    trainer.should_stop = True


def fit(folder: Path, *callbacks: Callback, checkpoint: Path | None = None) -> Trainer:
    torch.manual_seed(0)
    rows = [(torch.randn(4), torch.tensor(1)) for _ in range(32)]
    module = Distillation(nn.Linear(4, 3), Plain(), None, None, OptimizerConfig(lr=0.01, warmup=0))
    with quiet_lightning():
        trainer = Trainer(
            accelerator="cpu",
            devices=1,
            strategy=Sharded(),
            inference_mode=False,
            max_epochs=2,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
            default_root_dir=folder,
            callbacks=list(callbacks),
        )
        trainer.fit(module, DataLoader(rows, batch_size=4), ckpt_path=checkpoint, weights_only=True)
    return trainer


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "checkpoints").iterdir())


def test_a_run_that_had_come_to_its_end_does_not_train_on(tmp_path: Path) -> None:
    assert fit(tmp_path, ResumeCheckpoint(), At(STOP, stop)).global_step == STOP
    assert names(tmp_path) == [f"last-{STOP}.ckpt"]  # nothing waits for anybody when the trainer is done
    [path] = resume_checkpoints(tmp_path / "checkpoints").values()
    before = read(path)
    assert fit(tmp_path, ResumeCheckpoint(), checkpoint=path).global_step == STOP
    assert read(path)["loops"] == before["loops"]
    last = ResumeCheckpoint()
    last.extends = True
    assert fit(tmp_path, last, checkpoint=path).global_step == 16


def test_a_checkpoint_is_there_as_soon_as_all_ranks_have_written_it(tmp_path: Path) -> None:
    found: list[list[str]] = []

    def look(trainer: Trainer) -> None:
        trainer.strategy.checkpoint_io.flush()  # type: ignore[attr-defined]

    # Saved before the third step; written, at the latest, after it; noticed before the fourth.
    fit(
        tmp_path,
        ResumeCheckpoint(every_n_steps=2),
        At(3, look),
        At(4, lambda _: found.append(names(tmp_path))),
        At(4, stop),
    )
    assert found == [["last-2.ckpt"]]


def test_a_rank_that_fails_waits_for_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(trainer: Trainer) -> None:
        monkeypatch.setattr("distill.run.checkpoints.shards._any", pytest.fail)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fit(tmp_path, ResumeCheckpoint(every_n_steps=2), At(3, fail))
    assert resume_checkpoints(tmp_path / "checkpoints") == {}
