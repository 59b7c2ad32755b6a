"""The student of the best checkpoint is what a run ends with, or of the next best intact one, and it says which."""

from __future__ import annotations

import errno
import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from distill.run.checkpoints import file as checkpoint
from distill.run.checkpoints.file import read, write
from distill.run.folder import Run
from distill.training.module import Distillation

Distill = Callable[..., Any]
Judged = Callable[[dict[int, float]], None]


@pytest.fixture
def in_order(distill: Distill) -> Distill:
    """As ``distill``, with what is logged among what is printed."""

    def run(*argv: str) -> Any:
        printed, logger = logging.StreamHandler(sys.stdout), logging.getLogger("distill")
        logger.addHandler(printed)
        try:
            return distill(*argv)
        finally:
            logger.removeHandler(printed)

    return run


@pytest.fixture
def judged(monkeypatch: pytest.MonkeyPatch) -> Judged:
    """Has validations find what they are told to, by step."""

    def judge(figures: dict[int, float]) -> None:
        def log(module: Any) -> None:
            figure = torch.tensor(figures.get(module.global_step, 0.0))
            module.log("val/accuracy", figure, sync_dist=True)

        monkeypatch.setattr(Distillation, "on_validation_epoch_end", log)

    return judge


def lost(path: Path) -> None:
    """No such file was ever written."""
    path.unlink()


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1000])


def alter(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def shipped(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "student/model.safetensors")


def weights(path: Path) -> dict[str, torch.Tensor]:
    state = read(path)["state_dict"]
    return {name.removeprefix("student."): value for name, value in state.items() if name.startswith("student.")}


def agree(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(a[name], b[name]) for name in a)


def unwritten(name: str) -> Callable[[Any, Path], None]:
    """Writes checkpoints, but finds no room for one."""

    def without_room(content: Any, path: Path) -> None:
        if name in str(path):  # of a sharded run the folder is called after it
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(content, path)

    return without_room


SIX = ("fit", "-c", "base.yaml", "--id", "one", "--trainer.max_steps", "6", "--trainer.val_check_interval", "2")


@pytest.mark.usefixtures("leaves_no_trace")
@pytest.mark.parametrize("strategy", ["auto", "sharded"])
def test_where_the_best_could_not_be_written_the_one_before_is_kept_and_saved(
    strategy: str, base: Any, in_order: Distill, judged: Judged, monkeypatch: pytest.MonkeyPatch
) -> None:
    judged({2: 0.5, 4: 0.8, 6: 0.3})
    monkeypatch.setattr(checkpoint, "write", unwritten("best-4.ckpt"))
    code, out, err = in_order(*SIX, "--trainer.strategy", strategy, "--trainer.devices", "1")
    assert code == 0, err
    run = Path("runs/base/one")
    assert agree(shipped(run), weights(run / "checkpoints/best-2.ckpt"))
    assert Run(run).result["saved_step"] == 2
    student, why = out.splitlines()[-2:]
    assert student.startswith("student of step 2 of 6 (the next best by accuracy)")
    assert "best-4.ckpt is not there: the student of step 2 is saved in its place" in why


@pytest.mark.parametrize("damage", [lost, cut, alter])
def test_where_the_best_cannot_be_read_and_no_other_does_better_the_last_is_saved(
    damage: Callable[[Path], None], base: Any, in_order: Distill, judged: Judged, monkeypatch: pytest.MonkeyPatch
) -> None:
    def later(content: Any, path: Path) -> None:
        write(content, path)
        if path.name == "last-6.ckpt":
            damage(path.with_name("best-4.ckpt"))

    judged({2: 0.5, 4: 0.8, 6: 0.6})
    monkeypatch.setattr(checkpoint, "write", later)
    code, out, err = in_order(*SIX)
    assert code == 0, err
    run = Path("runs/base/one")
    assert agree(shipped(run), weights(run / "checkpoints/last-6.ckpt"))
    assert Run(run).result["saved_step"] == 6
    student, why = out.splitlines()[-2:]
    assert student.startswith("student of step 6 (the last)")
    assert "best-4.ckpt is" in why
    assert "the student of step 6 is saved in its place" in why


def test_the_best_is_saved_all_the_same_where_another_checkpoint_holds_it(
    base: Any, in_order: Distill, judged: Judged, monkeypatch: pytest.MonkeyPatch
) -> None:
    judged({2: 0.5, 4: 0.8, 6: 0.6})
    monkeypatch.setattr(checkpoint, "write", unwritten("best-4.ckpt"))
    keep = '[{"class_path": "ResumeCheckpoint", "init_args": {"every_n_steps": 2}}]'
    code, out, err = in_order(*SIX, "--callbacks", keep)
    assert code == 0, err
    run = Path("runs/base/one")
    assert agree(shipped(run), weights(run / "checkpoints/last-4.ckpt"))
    assert out.splitlines()[-1].startswith("student of step 4 of 6 (the best by accuracy)")
