"""Runs whose disk is full, or may not be written to."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from distill import artifact, checkpoint
from distill.run import Run

Distill = Callable[..., Any]
Fitted = Callable[..., Path]


def full(*arguments: Any, **more: Any) -> Any:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_run_goes_on_without_room_for_checkpoints(
    fitted: Fitted, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(checkpoint, "write", full)
    folder = fitted()
    assert len([record for record in caplog.records if "No space left" in record.getMessage()]) == 1
    run = Run.open(folder)
    assert not list(run.checkpoints.glob("*"))
    assert run.result["saved_step"] == 2
    assert (run.student / "model.safetensors").is_file()


def test_a_run_without_room_for_its_student_says_so_and_can_be_resumed(
    base: dict[str, Any], distill: Distill, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(artifact, "save", full)
        code, out, err = distill("fit", "-c", "base.yaml", "--id", "one")
    assert code == 1
    assert "No space left on device" in err
    assert "distill resume" in err
    assert "Traceback" not in out + err
    run = Run.open("runs/base/one")
    assert run.state == "interrupted"
    assert not run.student.exists()
    assert distill("resume", "runs/base/one").code == 0
    assert run.state == "finished"
    assert (run.student / "model.safetensors").is_file()


def test_a_run_that_cannot_begin_leaves_nothing(
    base: dict[str, Any], distill: Distill, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Run, "_write", staticmethod(full))
    code, out, err = distill("fit", "-c", "base.yaml", "--id", "one")
    assert code == 2
    assert "No space left on device" in err
    assert "Traceback" not in out + err
    assert not Path("runs").exists()
