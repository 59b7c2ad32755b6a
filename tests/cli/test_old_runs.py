"""A run folder of 0.1 is refused with one sentence by every command that takes a run."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

SENTENCE = "is a run of distill 0.1, which later versions neither read nor resume."


@pytest.fixture
def old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The folder of a finished run of 0.1."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "runs" / "base" / "old"
    (folder / "student").mkdir(parents=True)
    text = "model:\n  student: x\ncallbacks:\n- class_path: distill.callbacks.last.Last\n"
    (folder / "config.yaml").write_text(f"# Repeat this run: distill fit -c {folder}/config.yaml\n{text}")
    (folder / "result.json").write_text(json.dumps({"steps": 3, "scores": {}}))
    return str(folder)


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("RUN", "resume {}"),
        ("RUN", "validate {}"),
        ("RUN", "test {}"),
        ("RUN", "quantize {}"),
        ("RUN", "export {} --to hf"),
        ("RUN", "sensitivity {}"),
        ("--compare", "runs --compare {0} {0}"),
        ("--from", "fit --from {}"),
        ("--config", "fit -c {}"),
        ("RUN", "fit -c base.yaml --id old --resume auto"),
        ("--beside", "fit -c base.yaml --beside {}"),
    ],
)
def test_a_command_refuses_it(
    key: str, words: str, old: str, base: dict[str, Any], distill: Callable[..., Any]
) -> None:
    before = {path: path.stat().st_mtime_ns for path in Path(old).rglob("*")}
    code, _, err = distill(*words.format(old).split())
    assert code == 2
    assert f"distill: error: {key} = {old!r}: {SENTENCE}" in err
    assert {path: path.stat().st_mtime_ns for path in Path(old).rglob("*")} == before


def test_one_that_another_command_made_is_refused_too(old: str, distill: Callable[..., Any]) -> None:
    Path(old, "config.yaml").write_text("# Made by: distill quantize runs/base/one\nmodel: {}\n")
    assert SENTENCE in distill("validate", old).err


def test_the_list_of_runs_notes_it(old: str, distill: Callable[..., Any]) -> None:
    code, out, _ = distill("runs", "runs", "--json")
    (run,) = json.loads(out)
    assert (code, run["state"], run["step"]) == (0, "finished", 3)
    assert run["note"].startswith("is a run of distill 0.1")
