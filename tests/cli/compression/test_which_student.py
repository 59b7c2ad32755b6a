"""Which student of a compressing run is saved, and with which metrics."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

Distill = Callable[..., Any]
Train = Callable[..., Any]
Zeros = Callable[..., tuple[int, int]]

SCRIPTED = """
import itertools
import torch
from torchmetrics import Metric
from distill.tasks import TextClassification

class Falling(Metric):
    values = itertools.count(9, -1)
    def update(self, *figures):
        pass
    def compute(self):
        return torch.tensor(next(self.values) / 10)

class Task(TextClassification):
    monitor = "falling"
    def metrics(self):
        return super().metrics() | {"falling": Falling()}
"""


@pytest.fixture
def falling(
    base: dict[str, Any],
    changed: Callable[..., dict[str, Any]],
    distill: Distill,
    own_module: Callable[[str, str], None],
) -> Callable[[dict[str, Any]], str]:
    """Trains the run ``one`` without a teacher, in sections changed, and gives what is printed; the score that is
    watched begins with 0.9 and falls by a tenth each time."""

    def fit(changes: dict[str, Any]) -> str:
        own_module("falling", SCRIPTED)
        base["model"] |= {"task": {"class_path": "falling.Task"}, "losses": ["CrossEntropy"]}
        base["model"]["student"]["path"] = base["model"].pop("teacher")["path"]
        Path("base.yaml").write_text(yaml.safe_dump(changed(base, changes)))
        code, out, err = distill("fit", "-c", "base.yaml", "--allow", "falling", "--id", "one")
        assert code == 0, err
        return str(out)

    return fit


def test_no_checkpoint_from_before_the_end_of_the_compression_is_the_best(
    falling: Callable[..., str],
    pruning: dict[str, Any],
    quantization: dict[str, Any],
    encoder: list[str],
    zeros: Zeros,
) -> None:
    steps = {"max_steps": 8, "val_check_interval": 2, "num_sanity_val_steps": 0}
    pruning["init_args"] |= {"end": 5}
    quantization["init_args"] |= {"observe": 1, "begin": 3, "freeze_observers": 7, "float_validation": False}
    falling({"trainer": steps, "callbacks": [pruning, quantization]})
    folder = Path("runs/base/one")
    assert json.loads((folder / "result.json").read_text())["saved_step"] == 6
    assert [path.name for path in (folder / "checkpoints").glob("best-*")] == ["best-6.ckpt"]
    count, total = zeros(load_file(folder / "student/model.safetensors"), encoder)
    assert count == round(0.8 * total)


def test_a_checkpoint_of_the_users_own_saves_no_student_that_is_half_pruned(
    tmp_path: Path, train: Train, pruning: dict[str, Any], encoder: list[str], zeros: Zeros
) -> None:
    # The lowest step scores best: the earlier, the better.
    own = {"class_path": "ModelCheckpoint", "init_args": {"monitor": "step", "mode": "min"}}
    found = train(tmp_path, [pruning, own])
    assert found.run.result["saved_step"] >= 10
    assert found.run.result["complete"] is True
    count, total = zeros(load_file(found.run.student / "model.safetensors"), encoder)
    assert count == round(0.8 * total)
    names = {path.name for path in found.run.checkpoints.iterdir()}
    assert any(name.startswith("epoch=") for name in names)
    assert f"best-{found.run.result['saved_step']}.ckpt" in names


def test_a_run_that_ends_before_its_compression_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, train: Train, pruning: dict[str, Any]
) -> None:
    stop = {
        "class_path": "EarlyStopping",
        "init_args": {"monitor": "val/accuracy", "stopping_threshold": 0.0, "mode": "max"},
    }
    found = train(tmp_path, [pruning, stop])
    assert found.run.result["steps"] == 5
    assert found.run.result["complete"] is False
    [line] = [record.getMessage() for record in caplog.records if record.name == "distill.workflows.ending"]
    assert "step 5 of 20, before GradualMagnitudePruning" in line


def test_the_metrics_are_those_of_the_step_that_is_saved(falling: Callable[..., str]) -> None:
    # Validated in the second of three epochs only, and no checkpoint is kept to go back to.
    epochs = {"max_steps": -1, "max_epochs": 3, "check_val_every_n_epoch": 2}
    epochs |= {"num_sanity_val_steps": 0, "enable_checkpointing": False}
    assert "step 6: " in falling({"data": {"batch_size": 50}, "trainer": epochs})
    result = json.loads(Path("runs/base/one/result.json").read_text())
    assert result["saved_step"] == 9
    assert result["scores"]["student"]["falling"] == pytest.approx(0.8)  # that of step 6 is 0.9


def test_saved_weights_are_the_average_and_zero_where_they_are_pruned(
    tmp_path: Path, train: Train, pruning: dict[str, Any], encoder: list[str], zeros: Zeros
) -> None:
    average = {"class_path": "ExponentialMovingAverage", "init_args": {"decay": 0.9}}
    found = train(tmp_path, [pruning, average])
    state = load_file(found.run.student / "model.safetensors")
    count, total = zeros(state, encoder)
    assert count == round(0.8 * total)
    step = found.run.result["saved_step"]
    [path] = found.run.checkpoints.glob(f"best-{step}.ckpt")
    saved = torch.load(path, weights_only=True)
    [averages] = [value for key, value in saved["callbacks"].items() if key.startswith("ExponentialMovingAverage")]
    masks = saved["state_dict"]
    for name, value in averages.items():
        mask = masks.get(f"student.{name}_mask", torch.ones(()))
        torch.testing.assert_close(state[name], value * mask, rtol=0, atol=0)
    raw = saved["state_dict"]["student.classifier.weight"]
    assert not torch.equal(state["classifier.weight"], raw)
