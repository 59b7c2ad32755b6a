"""What a sweep writes beside its runs holds no secret, and is still known for the same sweep."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from distill.core.utils.errors import TrainingError, UserError
from distill.workflows.sweep.run import sweep
from distill.workflows.trials.recipe import parse_recipe

BASE = {"callbacks": [{"class_path": "Notify", "init_args": {}}], "model": {"optimizer": {}}}
ARGUMENTS = ["-c", "base.yaml", "--data.token=hunter2", "--data.headers={api_key: hunter2, user: me}"]
ARGUMENTS += ["--data.source=https://me:hunter2@host/data", "--data.text_key=sentence"]
PARAMETERS: dict[str, Any] = {
    "callbacks.0.api_key": {"value": "hunter2"},
    "callbacks.0.headers": {"values": [{"token": "hunter2"}, {"token": "hunter2hunter2"}]},
    "model.optimizer.lr": {"value": 1e-4},
}


@pytest.fixture
def again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs the sweep, each of whose trials fails, and gives what it has written."""
    monkeypatch.setattr("distill.workflows.sweep.run.check_values", lambda *_: None)  # the recipe is no whole one
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("distill.workflows.sweep.run.run_to_end", lambda command: 1)
    Path("base.yaml").write_text(yaml.safe_dump(BASE))
    Path("sweep.yaml").write_text(yaml.safe_dump({"name": "mine", "method": "grid", "parameters": PARAMETERS}))

    def run(arguments: list[str]) -> str:
        with pytest.raises(TrainingError, match="2 of 2 trials failed"):
            sweep("sweep.yaml", parse_recipe(arguments))
        return Path("runs/mine/sweep.json").read_text()

    return run


def test_no_secret_is_recorded_and_all_else_is(again: Any) -> None:
    written = again(ARGUMENTS)
    assert "hunter2" not in written
    for kept in ("base.yaml", "https://***@host/data", "me", "sentence", "0.0001"):
        assert kept in written


def test_the_same_sweep_is_known_without_its_secrets(again: Any) -> None:
    assert again(ARGUMENTS) == again(ARGUMENTS)
    with pytest.raises(UserError, match="another sweep"):
        again([*ARGUMENTS, "--data.headers={api_key: hunter2, user: you}"])
