"""A training that was stopped in mid-epoch and resumed has in all its logs what an undisturbed one has, once."""

from __future__ import annotations

import csv
import json
import os
import signal
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from distill.run.loggers.wandb_file import history, records
from distill.training.module import Distillation

STEPS, STOP = 10, 7  # of the run, five an epoch; done when it is stopped
AXIS = "trainer/global_step"
Row = tuple[int, dict[str, float]]


@pytest.fixture
def configured(base: dict[str, Any], changed: Callable[..., dict[str, Any]]) -> dict[str, Any]:
    """The configuration of ``base.yaml``, which logs every step everywhere, and validates in mid-epoch."""
    changes = {
        "data": {"train_samples": 40},
        "trainer": {"max_epochs": 2, "max_steps": -1, "val_check_interval": 3, "log_every_n_steps": 1},
        "callbacks": [{"class_path": "ResumeCheckpoint", "init_args": {"every_n_steps": 2}}],
        "logging": {"tensorboard": True, "wandb": {"mode": "offline"}},
    }
    config = changed(base, changes)
    Path("base.yaml").write_text(yaml.safe_dump(config))
    return config


def stopped(distill: Callable[..., Any], folder: Path) -> None:
    """A run that SIGTERM stops, and whose newest checkpoint is lost: rows were logged beyond the one that is left."""
    original, calls = Distillation.training_step, iter(range(1, 1000))

    def step(self: Any, *given: Any) -> Any:
        if next(calls) == STOP:
            os.kill(os.getpid(), signal.SIGTERM)
        return original(self, *given)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Distillation, "training_step", step)
        with pytest.raises(SystemExit, match="143"):
            distill("fit", "-c", "base.yaml", "--id", folder.name)
    (folder / "checkpoints" / f"last-{STOP}.ckpt").unlink()


def in_metrics(run: Path) -> list[Row]:
    """Of ``metrics.csv``, which counts the steps done."""
    with (run / "metrics.csv").open(newline="") as file:
        rows = [{name: float(value) for name, value in row.items() if value} for row in csv.DictReader(file)]
    return [(int(row.pop("step")) - 1, row) for row in rows]


def in_wandb(rows: list[dict[str, Any]]) -> list[Row]:
    """Without what W&B adds."""
    return [(row[AXIS], {name: v for name, v in row.items() if name != AXIS and name[0] != "_"}) for row in rows]


def in_tensorboard(run: Path) -> dict[str, list[tuple[int, float]]]:
    events = EventAccumulator(str(run / "tensorboard"), size_guidance={"scalars": 0}).Reload()
    tags = events.Tags()["scalars"]
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in tags}


def single(value: float) -> float:
    """As TensorBoard keeps it."""
    return float(struct.unpack("f", struct.pack("f", value))[0])


@pytest.mark.slow
def test_every_log_has_every_row_once_and_all_can_be_sent(
    configured: dict[str, Any], distill: Callable[..., Any], server: Any, synced: Callable[[str], None]
) -> None:
    whole, run = Path("runs/base/whole"), Path("runs/base/stopped")
    assert distill("fit", "-c", "base.yaml", "--id", "whole").code == 0
    stopped(distill, run)
    assert max(step for step, _ in in_metrics(run)) == STOP - 1
    code, out, err = distill("resume", str(run))
    assert code == 0, err
    assert f"from step {STOP - 1}" in out

    rows = in_metrics(run)
    trained = {step: row for step, row in rows if "train/loss" in row}
    assert list(trained) == list(range(STEPS))
    for row in trained.values():
        terms = [row[f"train/{term}_weighted"] for term in ("hinton_kl", "cross_entropy")]
        assert row["train/loss"] == pytest.approx(sum(terms), rel=1e-5)
    assert [step for step, row in rows if "val/accuracy" in row] == [2, 7]
    assert rows == in_metrics(whole)

    files = sorted((run / "wandb").glob("offline-run-*/*.wandb"))
    assert len(files) == 2
    assert in_wandb([row for file in files for row in history(file)]) == rows
    expected: dict[str, list[tuple[int, float]]] = {}
    for step, row in rows:
        for name, value in row.items():
            expected.setdefault(name, []).append((step, single(value)))
    assert in_tensorboard(run) == in_tensorboard(whole) == expected

    for file in files:
        given = {update.key: json.loads(update.value_json) for r in records(file) for update in r.config.update}
        assert given["model"]["losses"][0]["init_args"]["temperature"] == 2.0
        assert given["model"]["optimizer"]["lr"] == 1e-3
    hyperparameters = yaml.safe_load((run / "tensorboard" / "hparams.yaml").read_text())
    assert hyperparameters["model"]["losses"][0]["init_args"]["temperature"] == 2.0

    synced(out)
    assert in_wandb(server.history) == rows
