"""A search that trains: its runs, what its configurations give again, and a trial that was stopped within a step."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from distill.run.folder import Run
from distill.training.module import Distillation

SEARCH = ("search", "-c", "base.yaml", "--target", "accuracy >= 0.1 * teacher", "--to", "hf", "--trials", "1")


def record(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(Path("runs", name, "search.json").read_text())
    return found


def weights(run: Run) -> bytes:
    return (run.student / "model.safetensors").read_bytes()


@pytest.fixture
def stopped(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Has a run of the search called ``runs/stopped`` interrupted in its third step, once."""
    left = [True]
    original = Distillation.training_step

    def step(self: Any, *given: Any) -> Any:
        if left and self.global_step == 2 and "stopped" in str(self.trainer.default_root_dir):
            left.clear()
            raise KeyboardInterrupt
        return original(self, *given)

    monkeypatch.setattr(Distillation, "training_step", step)
    return left


@pytest.mark.slow
def test_runs_are_real_and_repeatable_and_a_stopped_one_is_resumed(
    searched: dict[str, Any], trials: Any, distill: Any, stopped: list[bool]
) -> None:
    del searched["callbacks"][0]  # transformers opens no student that was pruned so, and writes it quickly
    Path("base.yaml").write_text(yaml.safe_dump(searched))
    code, _, err = distill(*SEARCH, "--rungs", "0.5,1", "--name", "whole")
    assert code == 0, err
    whole = record("whole")
    first = whole["trials"][0]["rungs"]
    assert [one["steps"] for one in first] == [4, 8]
    file, run = Path("runs/whole", whole["best"]["file"]), Run(Path("runs/whole", whole["best"]["run"]))
    assert distill("fit", "-c", str(file), "--id", "again").code == 0
    again = Run(Path("runs", f"whole-{run.id}", "again"))
    assert again.result["scores"] == run.result["scores"]
    assert weights(again) == weights(run)
    assert json.loads((run.folder / "exports" / "hf" / "export.json").read_text())["bytes"] > 0
    assert not run.checkpoints.exists()

    assert distill(*SEARCH, "--rungs", "0.5,1", "--name", "stopped").code == 130
    assert not stopped
    assert Run(Path("runs/stopped/trial-0001-rung-1")).state == "interrupted"
    code, _, err = distill("search", "--resume", "runs/stopped")
    assert code == 0, err
    there = record("stopped")
    assert [trial["values"] for trial in there["trials"]] == [trial["values"] for trial in whole["trials"]]
    for name in [one["run"] for trial in whole["trials"] for one in trial["rungs"]]:
        assert weights(Run(Path("runs/stopped", name))) == weights(Run(Path("runs/whole", name))), name
