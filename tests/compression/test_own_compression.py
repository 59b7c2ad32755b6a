"""A compression and an average of one's own get from a run all that ours get."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from safetensors.torch import load_file
from torch import nn

from distill.core.utils.errors import TrainingError
from distill.workflows.finish import finish_callbacks

MINE = '''
import torch
from pytorch_lightning import Callback
from torch import nn

from distill import Compression
from distill.core.step_callback import StepCallback

LAYER = "bert.encoder.layer.0.output.dense.weight"
SEEN = []


class FirstColumn(Compression):
    """Zeroes the first input of a layer from a step on, with a tenth of the learning rate."""

    order = 1

    def __init__(self, begin: int) -> None:
        self.begin = begin

    def prepare(self, student):
        self.weight = student.get_parameter(LAYER)
        self.weight_mask = torch.ones_like(self.weight)

    def on_step_end(self, trainer, pl_module):
        if self._step >= self.begin:
            self.weight_mask[:, 0] = 0
        with torch.no_grad():
            self.weight.mul_(self.weight_mask)

    def masked(self, student):
        return [LAYER]

    def factors(self):
        return [(self.weight, self.weight_mask)]

    def target_reached(self, step, total_steps):
        return step >= self.begin

    def learning_rate_factor(self, step, total_steps):
        return 0.1 if step >= self.begin else 1.0

    def timeline(self, steps, total_steps):
        return {"columns gone": [float(step >= self.begin) for step in steps]}

    def finish(self, student):
        return [{"kind": "sparsity", "actual": None, "layers": {LAYER.removesuffix(".weight"): {}}}]


class Mean(StepCallback):
    """The plain mean of the weights after each step."""

    needs_unsharded_weights = True
    total = None

    def on_step_end(self, trainer, pl_module):
        weights = {name: p.detach().clone() for name, p in pl_module.student.named_parameters()}
        SEEN.append(weights)
        self.count = self._step
        self.total = {name: self.total[name] + p if self.total else p for name, p in weights.items()}

    def state_dict(self):
        return {"total": self.total, "count": self.count}

    def load_state_dict(self, state):
        self.total, self.count = state["total"], state["count"]

    @torch.no_grad()
    def finish(self, student):
        for name, p in student.named_parameters():
            p.copy_(self.total[name] / self.count)
        return []


class Diary(Callback):
    """Writes a file, and says so."""

    writes_files = True

    def on_train_start(self, trainer, pl_module):
        open("diary", "w").close()


class Reader(Callback):
    """Any callback may say that it reads unsharded weights."""

    needs_unsharded_weights = True
'''

BEGIN, STEPS = 2, 5
COLUMN = {"class_path": "mine.FirstColumn", "init_args": {"begin": BEGIN}}


def listed(*callbacks: Any) -> tuple[str, ...]:
    return ("--allow", "mine", "--callbacks", json.dumps(callbacks))


@pytest.fixture
def mine(own_module: Callable[[str, str], None], base: dict[str, Any]) -> None:
    own_module("mine", MINE)


def scheduled(step: int) -> float:
    """The recipe's learning rate in a run of five steps: a warm-up of one, then linearly to 0."""
    return 1e-3 * (0.5 if step == 0 else 1 - (step - 1) / (STEPS - 1))


def test_a_run_scales_averages_masks_and_records_by_what_they_say(mine: None, fitted: Callable[..., Path]) -> None:
    steps = ("--trainer.max_steps", f"{STEPS}", "--trainer.val_check_interval", "2")
    run = fitted(*listed(COLUMN, "mine.Mean"), *steps, "--trainer.log_every_n_steps", "1")
    rows = [row for row in csv.DictReader((run / "metrics.csv").open()) if row["train/learning_rate"]]
    rates = [float(row["train/learning_rate"]) for row in rows]
    assert rates == pytest.approx([scheduled(step) * (0.1 if step >= BEGIN else 1) for step in range(STEPS)])

    result = json.loads((run / "result.json").read_text())
    saved, module = result["saved_step"], sys.modules["mine"]
    assert BEGIN <= saved < STEPS, "the best that is complete, and not the last: its state must be read back"
    student = load_file(run / "student" / "model.safetensors")
    for name in (module.LAYER, "classifier.weight"):
        mean = sum(weights[name] for weights in module.SEEN[:saved]) / saved
        assert student[name].numpy() == pytest.approx(mean.numpy(), abs=1e-7)
    steps = json.loads((run / "student" / "compression.json").read_text())["steps"]
    assert [step["kind"] for step in steps][-1:] == ["sparsity"]
    assert (run / "timeline.png").is_file()


def test_its_mask_holds_in_the_average_of_ours(mine: None, fitted: Callable[..., Path]) -> None:
    average = {"class_path": "ExponentialMovingAverage", "init_args": {"decay": 0.9}}
    run = fitted(*listed(COLUMN, average), "--trainer.max_steps", f"{STEPS}")
    weight = load_file(run / "student" / "model.safetensors")[sys.modules["mine"].LAYER]
    assert not weight[:, 0].any()
    assert weight[:, 1:].all()


def test_a_dry_run_shows_its_time_line_and_leaves_out_what_writes(mine: None, distill: Callable[..., Any]) -> None:
    done = distill("fit", "-c", "base.yaml", "--dry-run", *listed(COLUMN, "mine.Diary"), "--trainer.max_steps", "5")
    assert done.code == 0, done.err
    lines = {cells[1].strip(): cells[2:-1] for line in done.out.splitlines() if len(cells := line.split("│")) > 4}
    assert list(map(float, lines["columns gone"])) == [0, 0, 1, 1, 1]
    assert list(map(float, lines["learning rate"])) == pytest.approx([5e-4, 1e-3, 7.5e-5, 5e-5, 2.5e-5])
    assert not Path("diary").exists()


def test_a_step_that_nobody_can_rebuild_is_named_with_its_class(mine: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path.cwd()))
    module = import_module("mine")
    monkeypatch.setattr(module.FirstColumn, "finish", lambda self, student: [{"kind": "column"}])
    trainer: Any = SimpleNamespace(callbacks=[module.FirstColumn(BEGIN)])
    with pytest.raises(TrainingError, match=r"FirstColumn\.finish returns a step of kind 'column'.*register\(kind"):
        finish_callbacks(trainer, nn.Linear(2, 2), {})


@pytest.mark.parametrize("callback", [COLUMN, "mine.Mean", "mine.Reader"])
def test_what_says_that_it_needs_unsharded_weights_is_refused_where_they_are_sharded(
    callback: Any, mine: None, distill: Callable[..., Any]
) -> None:
    done = distill("fit", "-c", "base.yaml", *listed("mine.Diary", callback), "--trainer.strategy", "sharded")
    assert done.code == 2
    assert "callbacks.1 = " in done.err
    assert "works on unsharded weights" in done.err
    assert not Path("runs").exists()
