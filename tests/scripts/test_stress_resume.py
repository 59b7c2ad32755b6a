"""The stress test kills, resumes, and would see a difference."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from distill.run.checkpoints.file import write

SCRIPTS = Path(__file__).parents[2] / "scripts"


@pytest.fixture
def stress(monkeypatch: pytest.MonkeyPatch) -> Any:
    for name, value in (("OMP_NUM_THREADS", "1"), ("TOKENIZERS_PARALLELISM", "false")):
        monkeypatch.setenv(name, value)  # which the script sets for good
    monkeypatch.syspath_prepend(str(SCRIPTS))
    import stress_resume

    return stress_resume


@pytest.fixture
def left(stress: Any) -> Any:
    import stress.left

    return stress.left


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
def test_a_difference_of_one_bit_is_seen_and_named(left: Any, tmp_path: Path, change: Any, name: str) -> None:
    reference = left.of_training(ended(tmp_path / "one"))
    assert left.different(left.of_training(ended(tmp_path / "two", **change)), reference) == [name]


def test_the_time_that_a_run_took_is_no_difference(left: Any, tmp_path: Path) -> None:
    one, two = ended(tmp_path / "one"), ended(tmp_path / "two", seconds=2.0)
    assert left.different(left.of_training(two), left.of_training(one)) == []


def test_half_a_folder_is_seen_and_what_was_timed_is_not(left: Any, tmp_path: Path) -> None:
    for name, seconds in (("one", 1.0), ("two", 2.0)):
        (tmp_path / name / "deep").mkdir(parents=True)
        (tmp_path / name / "deep/model").write_bytes(b"weights")
        (tmp_path / name / "export.json").write_text(json.dumps({"latency_ms": {"export": seconds}, "bytes": 7}))
    whole = left.of_folder(tmp_path / "one")
    assert left.different(left.of_folder(tmp_path / "two"), whole) == []
    (tmp_path / "two/deep/model").unlink()
    assert left.different(left.of_folder(tmp_path / "two"), whole) == ["deep/model"]


@pytest.mark.slow
def test_what_is_killed_again_and_again_ends_as_undisturbed(
    stress: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = stress.recipe(tmp_path)
    recipe["trainer"] |= {"max_epochs": 1, "val_check_interval": 6}
    (tmp_path / "short.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))
    differences = stress.stress(2, 1, tmp_path, ["fit", "quantize"], tmp_path / "short.yaml")
    assert differences == 0, (tmp_path / "log.txt").read_text()[-2000:]
    said = capsys.readouterr().out
    assert re.search(r"^2 kills, \d+ runs, 0 differences$", said, re.MULTILINE)
    assert all(f"\n{name} 1: no difference" in said for name in ("quantize", "fit"))
