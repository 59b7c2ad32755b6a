"""The promises of the lines that stand in for a progress bar."""

from __future__ import annotations

import itertools
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from pytorch_lightning import Trainer
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from distill.callbacks import progress_lines
from distill.callbacks.progress_lines import ProgressLines
from distill.core.utils import progress as tracking
from distill.training.module import Distillation


def lines(
    folder: Path, capsys: pytest.CaptureFixture[str], steps: int = 20, accumulate: int = 1, resume: str | None = None
) -> list[str]:
    x = torch.randn(32, 4)
    trainer = Trainer(
        accelerator="cpu",
        max_steps=steps,
        accumulate_grad_batches=accumulate,
        log_every_n_steps=1,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        callbacks=[ProgressLines()],
    )
    module = Distillation(nn.Linear(4, 4), "plain")
    trainer.fit(module, DataLoader(TensorDataset(x, x.argmax(1)), 4), ckpt_path=resume, weights_only=True)
    trainer.save_checkpoint(folder / "last.ckpt")
    return [line for line in capsys.readouterr().out.splitlines() if line.startswith("step ")]


def test_a_line_tells_step_loss_speed_and_time_left(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracking, "SECONDS", 0.0)
    monkeypatch.setattr(tracking, "TENTH_SECONDS", 0.0)
    found = lines(tmp_path, capsys)
    assert len(found) == 20
    said = r"step 3 of 20 \(15 %\): loss \d\.\d+, [\d.,]+ samples/s, \d.* left, until .*\d\d:\d\d"
    assert re.fullmatch(said, found[2])
    assert found[-1].endswith("0.0 s left")


def test_it_counts_optimizer_steps(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracking, "SECONDS", 0.0)
    monkeypatch.setattr(tracking, "TENTH_SECONDS", 0.0)
    found = lines(tmp_path, capsys, steps=3, accumulate=2)
    assert [line[:11] for line in found] == ["step 1 of 3", "step 2 of 3", "step 3 of 3"]


def test_every_tenth_of_the_run_has_a_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracking, "TENTH_SECONDS", 0.0)
    found = lines(tmp_path, capsys, steps=25)
    assert [int(line.split()[1]) for line in found] == [3, 5, 8, 10, 13, 15, 18, 20, 23, 25]


def test_the_end_is_reported_as_soon_as_a_few_seconds_are_done(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    ticks = itertools.count(step=6.0)  # each look at the clock is 6 seconds after the last
    monkeypatch.setattr(progress_lines, "time", SimpleNamespace(monotonic=lambda: next(ticks)))
    found = lines(tmp_path, capsys, steps=30)
    assert [int(line.split()[1]) for line in found[:3]] == [2, 6, 9]  # then every tenth


def test_a_run_of_seconds_has_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert lines(tmp_path, capsys) == []


def test_a_run_that_resumes_judges_by_its_own_steps(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    lines(tmp_path, capsys, steps=10)
    monkeypatch.setattr(tracking, "SECONDS", 0.0)
    monkeypatch.setattr(tracking, "TENTH_SECONDS", 0.0)
    found = lines(tmp_path, capsys, steps=12, resume=str(tmp_path / "last.ckpt"))
    assert [line[:13] for line in found] == ["step 11 of 12", "step 12 of 12"]
