"""A trained module is opened from its checkpoint, tested, and predicts; where it cannot, the right call is named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning import Trainer
from pytorch_lightning.callbacks import ModelCheckpoint
from torch import nn
from torch.utils.data import DataLoader

from distill import Distillation, OptimizerConfig, UserError
from distill.callbacks import GradualMagnitudePruning
from distill.losses import FitNetHint
from distill.tasks import Plain

X = torch.randn(16, 6, generator=torch.Generator().manual_seed(1))
LOADER: Any = DataLoader([(x, x[:3].argmax()) for x in X], batch_size=8)  # type: ignore[arg-type]


def arguments(seed: int) -> dict[str, Any]:
    torch.manual_seed(seed)
    student, teacher = (nn.Sequential(nn.Linear(6, w), nn.ReLU(), nn.Linear(w, 3)) for w in (4, 8))
    hint = FitNetHint(taps={"0": "0"})
    return {
        "student": student,
        "task": Plain(),
        "teacher": teacher,
        "losses": [hint],
        "optimizer": OptimizerConfig(lr=0.1),
    }


def trained(folder: Path, *callbacks: Any) -> tuple[Trainer, Distillation, str]:
    keep = ModelCheckpoint(folder, save_last=True)
    quiet: dict[str, Any] = {"accelerator": "cpu", "logger": False, "max_epochs": 1, "enable_progress_bar": False}
    trainer = Trainer(**quiet, enable_model_summary=False, callbacks=[keep, *callbacks])
    trainer.fit(module := Distillation(**arguments(0)), LOADER)
    return trainer, module, keep.last_model_path


def test_a_checkpoint_gives_the_module_its_weights_and_those_of_its_losses(tmp_path: Path) -> None:
    _, module, path = trained(tmp_path)
    opened = Distillation.load_from_checkpoint(path, **arguments(1))
    state = opened.state_dict()
    assert {name for name in state if name.startswith("losses.")}
    assert all(torch.equal(value, state[name]) for name, value in module.state_dict().items())


def test_a_module_that_makes_its_own_student_is_opened_with_its_own_arguments(tmp_path: Path) -> None:
    class Mine(Distillation):
        def __init__(self, width: int, *, seed: int = 2, **settings: Any) -> None:
            torch.manual_seed(seed)
            super().__init__(nn.Linear(6, width), Plain(), **settings)

    module = Mine(3, seed=0)
    quiet: dict[str, Any] = {"accelerator": "cpu", "logger": False, "max_epochs": 1, "enable_progress_bar": False}
    trainer = Trainer(**quiet, enable_checkpointing=False)
    trainer.fit(module, LOADER)
    trainer.save_checkpoint(path := tmp_path / "mine.ckpt")
    assert torch.equal(Mine.load_from_checkpoint(path, width=3).student(X), module.student(X))
    with pytest.raises(UserError, match=r"Mine\.load_from_checkpoint\(path, width=\.\.\., \.\.\.\)"):
        Mine.load_from_checkpoint(path)


def test_predict_lists_the_students_logits_and_test_its_scores(tmp_path: Path) -> None:
    trainer, module, path = trained(tmp_path)
    expected = module.student(X)
    found: Any = trainer.predict(module, LOADER)
    assert torch.equal(torch.cat(found), expected)
    opened = Distillation.load_from_checkpoint(path, **arguments(1))
    assert torch.equal(torch.cat(trainer.predict(opened, LOADER)), expected)  # type: ignore[arg-type]
    [scores] = trainer.test(module, LOADER, verbose=False)
    assert scores["test/accuracy"] == pytest.approx(float((expected.argmax(-1) == X[:, :3].argmax(-1)).float().mean()))


def test_what_cannot_be_opened_says_what_can_be_done(tmp_path: Path) -> None:
    _, _, path = trained(tmp_path, GradualMagnitudePruning(0.5, include=[".*"]))
    with pytest.raises(UserError, match=r"says not what module.*distill\.load"):
        Distillation.load_from_checkpoint(path)
    with pytest.raises(UserError, match=r"student\.0\.weight_mask.*in the middle of compressing.*ckpt_path"):
        Distillation.load_from_checkpoint(path, **arguments(1))
    plain = trained(tmp_path / "plain")[2]
    with pytest.raises(UserError, match=r"student\.weight, .* differ\. give the arguments"):
        Distillation.load_from_checkpoint(plain, **arguments(1) | {"student": nn.Linear(6, 3), "losses": None})
    with pytest.raises(UserError, match="cannot be read"):
        Distillation.load_from_checkpoint(tmp_path / "none.ckpt", **arguments(1))


def test_a_checkpoint_in_the_middle_of_compressing_is_scored_with_its_callbacks(tmp_path: Path) -> None:
    prune = GradualMagnitudePruning(0.5, include=[".*"], begin=0, end=0.5, every_n_steps=1)
    _, module, path = trained(tmp_path, prune)
    quiet: dict[str, Any] = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False}
    again = GradualMagnitudePruning(0.5, include=[".*"], begin=0, end=0.5, every_n_steps=1)
    fresh = Distillation(**arguments(0))
    nn.init.ones_(fresh.student[0].weight)  # type: ignore[index, arg-type]
    trainer = Trainer(**quiet, enable_checkpointing=False, callbacks=[again])
    trainer.validate(fresh, LOADER, ckpt_path=path, verbose=False, weights_only=True)
    assert torch.equal(fresh.student(X), module.student(X))
