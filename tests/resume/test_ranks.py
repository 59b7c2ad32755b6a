"""What a run on two ranks promises of its being resumed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from distill.callbacks.last import saved
from distill.checkpoint import read

STEPS, STOP = 8, 5  # of two epochs of 55 samples in batches of 2 x 8; done when it is stopped


def ranks(phase: str, folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(Path(__file__).with_name("ranks.py")), phase, str(folder)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)


@pytest.fixture(scope="module")
def stopped(
    tmp_path_factory: pytest.TempPathFactory,
    recipe: dict[str, Any],
    changed: Callable[..., dict[str, Any]],
    joint: list[dict[str, Any]],
) -> Path:
    """The folder of two runs: one undisturbed, and one that ended as its second rank was told to."""
    folder = tmp_path_factory.mktemp("ranks")
    keep = {"class_path": "Last", "init_args": {"keep": 1000}}
    trainer = {"max_epochs": 2, "max_steps": -1, "val_check_interval": 3, "log_every_n_steps": 1, "devices": "auto"}
    changes = {"data": {"train_samples": 55}, "trainer": trainer, "callbacks": [*joint, keep]}
    config = changed(recipe, changes | {"runs": str(folder / "runs")})
    (folder / "base.yaml").write_text(yaml.safe_dump(config))
    done = ranks("train", folder)
    assert done.returncode == 143, done.stderr[-3000:]
    assert done.stderr.count("to go on: distill resume") == 1
    assert next(iter(saved(folder / "runs/base/stopped/checkpoints"))) == STOP
    return folder / "runs/base"


def test_a_run_on_two_ranks_that_one_of_them_stopped_ends_with_the_same_bits_and_can_be_extended(
    stopped: Path, differences: Callable[[Any, Any], list[str]]
) -> None:
    folder = stopped.parent.parent / "copy"
    shutil.copytree(stopped / "stopped", folder / "runs/base/stopped")
    done = ranks("resume", folder)
    assert done.returncode == 0, done.stderr[-3000:]
    ours, theirs = (
        read(run / f"checkpoints/last-{STEPS}.ckpt") for run in (folder / "runs/base/stopped", stopped / "whole")
    )
    assert len(ours["teacher"]["remembered"]) == 2
    assert differences(ours, theirs) == []
    history = (stopped / "whole/metrics.csv").read_text()
    assert (folder / "runs/base/stopped/metrics.csv").read_text().startswith(history)
    assert json.loads((folder / "runs/base/stopped/result.json").read_text())["steps"] == STEPS * 3 // 2
