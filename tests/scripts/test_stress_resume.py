"""The stress test kills, resumes, and would see a difference."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from distill.checkpoint import write

SCRIPTS = Path(__file__).parents[2] / "scripts"


@pytest.fixture
def stress(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(SCRIPTS))
    import stress_resume

    return stress_resume


def ended(
    folder: Path, weight: float = 1.0, history: str = "step\n1\n", score: float = 0.5, seconds: float = 1.0
) -> Path:
    """What a run leaves behind."""
    (folder / "student").mkdir(parents=True)
    (folder / "checkpoints").mkdir()
    write({"state": {"weight": torch.tensor([weight])}, "seconds": seconds}, folder / "checkpoints/last-2.ckpt")
    (folder / "metrics.csv").write_text(history)
    (folder / "student/config.json").write_text("{}")
    result = {"scores": {"student": {"accuracy": score}}, "steps": 2, "saved_step": 2, "train_seconds": seconds}
    (folder / "result.json").write_text(json.dumps(result))
    return folder


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"weight": 1.0 + 2**-23}, "last-2.ckpt/state/weight"),
        ({"history": "step\n2\n"}, "metrics.csv"),
        ({"score": 0.6}, "result.scores"),
    ],
)
def test_a_difference_of_one_bit_is_seen_and_named(stress: Any, tmp_path: Path, change: Any, name: str) -> None:
    reference = stress.digest(ended(tmp_path / "one"))
    assert stress.different(ended(tmp_path / "two", **change), reference) == [name]


def test_the_time_that_a_run_took_is_no_difference(stress: Any, tmp_path: Path) -> None:
    reference = stress.digest(ended(tmp_path / "one"))
    assert stress.different(ended(tmp_path / "two", seconds=2.0), reference) == []


def test_a_run_that_is_killed_again_and_again_ends_as_an_undisturbed_one() -> None:
    command = [sys.executable, str(SCRIPTS / "stress_resume.py"), "--kills", "5", "--seed", "1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    assert re.fullmatch(r"5 kills, \d+ runs, 0 differences", done.stdout.splitlines()[-1])
