"""What a run resumes from, and what is kept of it."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import ModelCheckpoint

from distill.callbacks import BestCheckpoint, ResumeCheckpoint
from distill.callbacks.best_checkpoint import within
from distill.core.utils.errors import UserError
from distill.run.checkpoints.file import SafeCheckpointIO
from distill.run.checkpoints.names import resume_checkpoints
from distill.run.folder import Run


@pytest.mark.parametrize(("key", "value"), [("minutes", 0), ("minutes", -1.0), ("every_n_steps", 0), ("keep", 1)])
def test_a_value_out_of_range_is_refused(key: str, value: float) -> None:
    with pytest.raises(UserError, match=f"callbacks.ResumeCheckpoint.{key} = "):
        ResumeCheckpoint(**{key: value})  # type: ignore[arg-type]


def test_checkpoints_are_found_by_their_step_and_the_newest_comes_first(tmp_path: Path) -> None:
    others = ("best-50.ckpt", ".last-60.ckpt.ab.new", "last-7.damaged")
    for name in ("last-5.ckpt", "last-40.ckpt", "last-9.ckpt", *others):
        (tmp_path / name).touch()
    assert list(resume_checkpoints(tmp_path)) == [40, 9, 5]
    assert resume_checkpoints(tmp_path)[9] == tmp_path / "last-9.ckpt"
    assert resume_checkpoints(tmp_path / "missing") == {}


def state(folder: Path) -> BestCheckpoint:
    best = BestCheckpoint(dirpath=folder, filename="best-{step}", monitor="val/accuracy", mode="max")
    best.best_model_path = best.kth_best_model_path = str(folder / "best-4.ckpt")
    best.best_model_score = best.current_score = torch.tensor(0.5)
    best.best_k_models = {str(folder / "best-4.ckpt"): torch.tensor(0.5)}
    return best


def test_the_best_is_found_again_in_a_folder_that_was_moved(tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    moved = BestCheckpoint(dirpath=tmp_path / "new", filename="best-{step}", monitor="val/accuracy", mode="max")
    moved.load_state_dict(state(tmp_path / "old").state_dict())
    assert moved.best_model_path == str(tmp_path / "new" / "best-4.ckpt")
    assert moved.best_k_models == {str(tmp_path / "new" / "best-4.ckpt"): torch.tensor(0.5)}
    assert moved.current_score == 0.5


@pytest.mark.parametrize("kind", [BestCheckpoint, ModelCheckpoint])
def test_a_checkpoint_cannot_name_files_outside_of_the_run(
    kind: type[ModelCheckpoint], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fresh = kind(dirpath=tmp_path, filename="best-{step}", monitor="val/accuracy", mode="max")
    planted: dict[str, Any] = {
        **fresh.state_dict(),
        **dict.fromkeys(("best_model_path", "last_model_path"), "/etc/a.ckpt"),
    }
    planted["kth_best_model_path"] = "/etc/.."
    planted["best_k_models"] = {"/b.ckpt": torch.tensor(0.5), "../c.ckpt": torch.tensor(0.4), "..": torch.tensor(0.3)}
    checkpoint = {"callbacks": {fresh.state_key: {**planted, "dirpath": "/etc"}}}
    trainer = Trainer(callbacks=[fresh], logger=False, accelerator="cpu")
    ResumeCheckpoint().on_load_checkpoint(trainer, LightningModule(), checkpoint)
    fresh.load_state_dict(checkpoint["callbacks"][fresh.state_key])
    assert fresh.best_model_path == fresh.last_model_path == str(tmp_path / "a.ckpt")
    assert fresh.kth_best_model_path == ""
    assert list(fresh.best_k_models) == [str(tmp_path / "b.ckpt"), str(tmp_path / "c.ckpt")]
    [told] = [r.getMessage() for r in caplog.records if "not followed" in r.getMessage()]  # once, of all of them
    assert str(tmp_path) in told
    assert all(name in told for name in ("/etc/a.ckpt", "/b.ckpt", "../c.ckpt"))


def test_files_inside_of_the_run_are_reported_to_nobody(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for kind in (BestCheckpoint, ModelCheckpoint):
        own = kind(dirpath=tmp_path, filename="best-{step}", monitor="val/accuracy", mode="max")
        own.best_model_path = str(tmp_path / "val/accuracy=0.50.ckpt")
        within(own.state_dict(), own.dirpath)
    assert not caplog.records


@pytest.mark.parametrize("kind", [BestCheckpoint, ModelCheckpoint])
def test_a_metric_s_slash_makes_a_folder_which_is_found_again_and_no_link_out_of_it(
    kind: type[ModelCheckpoint], tmp_path: Path
) -> None:
    was, now = tmp_path / "was", tmp_path / "now"
    before = kind(dirpath=was, filename="best-{step}-{val/accuracy:.2f}", monitor="val/accuracy", mode="max")
    before.best_model_path = str(was / "val/accuracy=0.50.ckpt")
    before.last_model_path = str(was / "link/a.ckpt")
    before.best_k_models = {
        before.best_model_path: torch.tensor(0.5),
        str(was / "step=4/accuracy=0.50.ckpt"): torch.tensor(0.5),
    }
    now.mkdir()
    (now / "link").symlink_to(tmp_path)
    after = kind(dirpath=now, filename="best-{step}-{val/accuracy:.2f}", monitor="val/accuracy", mode="max")
    after.load_state_dict(within(before.state_dict(), after.dirpath))
    assert after.best_model_path == str(now / "val/accuracy=0.50.ckpt")
    assert after.last_model_path == str(now / "a.ckpt")
    assert len(after.best_k_models) == 2


def test_the_newest_are_kept_the_history_comes_first_and_all_seconds_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []

    def write(path: Path) -> None:
        events.append("checkpoint")
        path.touch()

    writer = SafeCheckpointIO()
    logger = SimpleNamespace(save=lambda: events.append("history"))
    trainer: Any = SimpleNamespace(
        loggers=[logger],
        save_checkpoint=write,
        strategy=SimpleNamespace(checkpoint_io=writer),
        is_global_zero=True,
        should_stop=False,
        default_root_dir=tmp_path,
    )
    clock = iter(range(100, 1000, 10))
    monkeypatch.setattr(time, "monotonic", lambda: float(next(clock)))
    last = ResumeCheckpoint(keep=2)
    last.folder = tmp_path
    last.on_fit_start(trainer, None)  # type: ignore[arg-type]
    for trainer.global_step in (9, 10, 11):
        last.save(trainer)
    writer.flush()
    assert list(resume_checkpoints(tmp_path)) == [11, 10]
    assert events == ["history", "checkpoint"] * 3
    assert last.seconds == 30.0  # of a clock that advances by ten whenever it is read: three times from one to the next


def test_who_stops_a_run_at_once_is_told_how_it_goes_on_where_it_can(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run, last = Run(Path("runs", "a", "b")), ResumeCheckpoint()
    last.of_run(run, "seed: 1", extends=False)
    assert last.folder == run.checkpoints
    words = last._interrupts.last_words
    assert words() == ""
    run.checkpoints.mkdir(parents=True)
    assert words() == ""
    (run.checkpoints / "last-3.ckpt").touch()
    assert words() == "to resume: distill resume runs/a/b"
