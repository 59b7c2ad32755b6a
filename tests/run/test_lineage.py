"""What a run's record promises of the labels that it and its teacher were trained on."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from distill.run.lineage import lineage

DATA = {"path": "reviews", "train_samples": 3000, "max_length": 64}
ALONE = {"losses": [{"class_path": "CrossEntropy"}]}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A finished run without a teacher, on 3,000 rows of which 2,900 are labelled."""
    folder = tmp_path / "runs" / "teacher" / "one"
    (folder / "student").mkdir(parents=True)
    write(folder, {"model": ALONE, "data": DATA})
    (folder / "result.json").write_text(json.dumps({"learned_from": {"rows": 3000, "labelled": 2900}}))
    return folder


def write(folder: Path, config: dict[str, Any]) -> None:
    (folder / "config.yaml").write_text(yaml.safe_dump(config))


def taught(teacher: Any, **data: Any) -> Any:
    config = {"model": {"teacher": teacher, "losses": [{"class_path": "HintonKL"}]}, "data": DATA | data}
    return lineage(config, None)["teacher_learned_from"]


def test_a_run_knows_what_its_teacher_was_trained_on(run: Path) -> None:
    for teacher in (str(run), str(run / "student"), {"path": str(run), "dtype": "auto"}):
        assert taught(teacher) == {"labelled": 2900, "same_rows": True}
    assert taught(str(run), max_length=32)["same_rows"]
    assert not taught(str(run), train_samples=300)["same_rows"]
    assert not taught(str(run), path=None, files={"train": "a.csv"})["same_rows"]


def test_nothing_is_claimed_of_a_teacher_of_unknown_origin(run: Path, tmp_path: Path) -> None:
    unknown = {"labelled": None, "same_rows": False}
    plain = tmp_path / "plain"
    plain.mkdir()
    for teacher in ("some/hub-id", str(plain), [{"path": str(run)}, {"path": str(run)}]):
        assert taught(teacher) == unknown
    (run / "result.json").write_text("{}")  # of a version that did not record it
    assert taught(str(run)) == {"labelled": None, "same_rows": True}
    write(run, {"model": {"teacher": "other", "losses": [{"class_path": "HintonKL"}]}, "data": DATA})
    assert taught(str(run)) == unknown  # it knows more than its labels say
    (run / "config.yaml").write_text("model: [")
    assert taught(str(run)) == unknown


def test_a_run_that_learns_alone_has_no_teacher_to_speak_of(run: Path) -> None:
    data = SimpleNamespace(learned_from={"rows": 3000, "labelled": 30})
    assert lineage({"model": ALONE | {"teacher": str(run)}, "data": DATA}, data) == {"learned_from": data.learned_from}
    assert lineage({"model": ALONE}, object()) == {}
