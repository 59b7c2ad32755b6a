"""The best checkpoint is chosen in the direction in which its metric is better, with no word of YAML."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning import Trainer
from torch import nn
from torch.utils.data import DataLoader

from distill import OptimizerConfig, callbacks, losses, tasks
from distill.core.utils.errors import UserError
from distill.training.module import Distillation

ROWS = [(torch.randn(2), torch.tensor(i % 2)) for i in range(8)]
LOADER: DataLoader[Any] = DataLoader(ROWS, batch_size=4)  # type: ignore[arg-type]
SCORES = {2: (0.5, 3.0), 4: (0.9, 1.0), 6: (0.4, 2.0)}  # step -> of which more, and of which less is better


@pytest.fixture(autouse=True)
def scored(monkeypatch: pytest.MonkeyPatch) -> None:
    def log(module: Any) -> None:
        more, less = SCORES[module.global_step]
        for name, figure in (("accuracy", more), ("agreement", more), ("loss", less)):
            module.log(f"val/{name}", torch.tensor(figure))

    monkeypatch.setattr(Distillation, "on_validation_epoch_end", log)


def fitted(folder: Path, best: callbacks.BestCheckpoint) -> Any:
    module = Distillation(
        nn.Linear(2, 2), tasks.Plain(), None, [losses.CrossEntropy()], OptimizerConfig(lr=0.02, warmup=0)
    )
    quiet: dict[str, Any] = {"enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    trainer = Trainer(
        default_root_dir=folder, callbacks=[best], max_epochs=3, logger=False, num_sanity_val_steps=0, **quiet
    )
    trainer.fit(module, LOADER, LOADER)
    return trainer


@pytest.mark.parametrize(
    ("given", "mode"),
    [
        ({"monitor": "val/accuracy"}, "max"),
        ({"monitor": "val/agreement"}, "max"),
        ({"monitor": "val/loss"}, "min"),
        ({}, "max"),
        ({"monitor": "val/accuracy", "mode": "min"}, "min"),
    ],
)
def test_the_best_of_plain_python_is_in_the_direction_in_which_its_metric_is_better(
    given: dict[str, Any], mode: str, tmp_path: Path
) -> None:
    best = callbacks.BestCheckpoint(dirpath=tmp_path, filename="{step}", **given)
    trainer = fitted(tmp_path, best)
    assert best.mode == mode
    column = 1 if given.get("monitor") == "val/loss" else 0
    expected = (max if mode == "max" else min)(SCORES, key=lambda step: SCORES[step][column])
    assert Path(best.best_model_path).name == f"step={expected}.ckpt"
    assert float(best.best_model_score) == pytest.approx(SCORES[expected][column])  # type: ignore[arg-type]
    best.setup(trainer, trainer.lightning_module, "fit")  # of a training that goes on
    assert float(best.kth_value) == pytest.approx(SCORES[expected][column])


def test_a_direction_that_nothing_says_is_refused_before_a_step(tmp_path: Path) -> None:
    best = callbacks.BestCheckpoint(dirpath=tmp_path, monitor="val/mine")
    with pytest.raises(UserError, match=r"nothing says whether more of val/mine is better.* write max or min"):
        fitted(tmp_path, best)
    with pytest.raises(UserError, match="of accuracy, more is better"):
        fitted(tmp_path, callbacks.BestCheckpoint(dirpath=tmp_path, mode="min"))
    assert list(tmp_path.iterdir()) == []
