"""What a run goes on from, and what is kept of it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from distill.callbacks import Best, Last
from distill.callbacks.last import saved
from distill.errors import UserError


@pytest.mark.parametrize(("key", "value"), [("minutes", 0), ("minutes", -1.0), ("every_n_steps", 0), ("keep", 1)])
def test_a_value_out_of_range_is_refused(key: str, value: float) -> None:
    with pytest.raises(UserError, match=f"callbacks.Last.{key} = "):
        Last(**{key: value})  # type: ignore[arg-type]


def test_checkpoints_are_found_by_their_step_and_the_newest_comes_first(tmp_path: Path) -> None:
    others = ("best-50.ckpt", ".last-60.ckpt.ab.new", "last-7.damaged")
    for name in ("last-5.ckpt", "last-40.ckpt", "last-9.ckpt", *others):
        (tmp_path / name).touch()
    assert list(saved(tmp_path)) == [40, 9, 5]
    assert saved(tmp_path)[9] == tmp_path / "last-9.ckpt"
    assert saved(tmp_path / "missing") == {}


def state(folder: Path) -> Best:
    best = Best(dirpath=folder, filename="best-{step}", monitor="val/accuracy", mode="max")
    best.best_model_path = best.kth_best_model_path = str(folder / "best-4.ckpt")
    best.best_model_score = best.current_score = torch.tensor(0.5)
    best.best_k_models = {str(folder / "best-4.ckpt"): torch.tensor(0.5)}
    return best


def test_the_best_is_found_again_in_a_folder_that_was_moved(tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    moved = Best(dirpath=tmp_path / "new", filename="best-{step}", monitor="val/accuracy", mode="max")
    moved.load_state_dict(state(tmp_path / "old").state_dict())
    assert moved.best_model_path == str(tmp_path / "new" / "best-4.ckpt")
    assert moved.best_k_models == {str(tmp_path / "new" / "best-4.ckpt"): torch.tensor(0.5)}
    assert moved.current_score == 0.5


def test_a_checkpoint_cannot_name_files_outside_of_the_run(tmp_path: Path) -> None:
    planted = state(tmp_path).state_dict()
    for name in ("best_model_path", "kth_best_model_path"):
        planted[name] = "../../outside.ckpt"
    planted["best_k_models"] = {"/outside.ckpt": torch.tensor(0.5)}
    fresh = Best(dirpath=tmp_path, filename="best-{step}", monitor="val/accuracy", mode="max")
    fresh.load_state_dict(planted)
    named = [fresh.best_model_path, fresh.kth_best_model_path, *fresh.best_k_models]
    assert [Path(path).parent for path in named] == [tmp_path] * 3
