"""A run does not depend on the folder that it was started from."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

Distill = Callable[..., Any]


@pytest.fixture
def began(
    base: dict[str, Any],
    fitted: Callable[..., Path],
    teacher_dir: str,
    text_folder: str,
    monkeypatch: pytest.MonkeyPatch,
) -> Path:
    """The folder of a run that names its models and its data by relative paths; the current folder is another one."""
    shutil.copytree(teacher_dir, "models/teacher")
    shutil.copytree(text_folder, "rows")
    base["model"] |= {
        "teacher": [{"path": "models/teacher"}, {"path": "./models/teacher"}],
        "student": {"path": "models/teacher", "layers": [1, 4]},
    }
    base["data"] |= {"path": None, "files": {split: f"rows/{split}.jsonl" for split in ("train", "validation")}}
    Path("base.yaml").write_text(yaml.safe_dump(base))
    folder = fitted().resolve()
    Path("elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    return folder


def test_a_run_is_scored_and_repeated_from_another_folder(began: Path, distill: Distill) -> None:
    code, out, err = distill("validate", str(began))
    assert code == 0, err
    result = json.loads((began / "result.json").read_text())
    assert f"{result['scores']['student']['accuracy']:.4f}" in out
    assert not list(Path().iterdir())
    code, _, err = distill("fit", "-c", str(began), "--id", "again")
    assert code == 0, err
    again = json.loads(Path("runs/base/again/result.json").read_text())
    assert again["scores"] == result["scores"]


def test_a_run_that_was_moved_is_scored(began: Path, distill: Distill, tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    moved = shutil.move(began, tmp_path / "kept/run")
    code, out, err = distill("validate", str(moved))
    assert code == 0, err
    accuracy = json.loads((tmp_path / "kept/run/result.json").read_text())["scores"]["student"]["accuracy"]
    assert f"{accuracy:.4f}" in out
