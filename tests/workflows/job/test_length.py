"""What the length of a run is of which only the least is given."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from distill.run.folder import Run
from distill.workflows.job.build import build, make_trainer
from distill.workflows.job.length import MOST_EPOCHS, epochs_for, steps_of

Distill = Callable[..., Any]


@pytest.mark.parametrize(
    ("steps_an_epoch", "min_epochs", "min_steps", "epochs"),
    [
        (10, 3, 500, 50),  # 300 rows
        (94, 3, 500, 6),  # 3,000
        (9375, 3, 500, 3),  # 300,000
        (1, 3, 500, MOST_EPOCHS),  # a handful
        (1, 60, 500, 60),  # what is asked for in epochs is done
        (7, 0, 7, 1),
        (7, 0, 8, 2),
        (7, 2, 0, 2),
    ],
)
def test_a_run_has_the_fewest_epochs_that_reach_both_minima(
    steps_an_epoch: int, min_epochs: int, min_steps: int, epochs: int
) -> None:
    assert epochs_for(steps_an_epoch, min_epochs, min_steps) == epochs


def shortest(base: dict[str, Any], **trainer: Any) -> None:
    """Write ``base.yaml`` without an end: 150 rows, 8 a batch, so 19 batches an epoch."""
    base["trainer"] = {**base["trainer"], **trainer}
    Path("base.yaml").write_text(yaml.safe_dump(base, sort_keys=False))


def test_a_run_without_an_end_gets_one_from_its_data_and_keeps_it(
    base: dict[str, Any], distill: Distill, fitted: Callable[..., Path]
) -> None:
    del base["trainer"]["max_steps"]
    shortest(base, min_epochs=1, min_steps=11, accumulate_grad_batches=2)
    folder = fitted()  # 10 steps an epoch
    assert Run.open(folder).config["trainer"]["max_epochs"] == 2
    assert Run.open(folder).result["steps"] == 20
    again = distill("fit", "-c", "base.yaml", "--id", "one", "--resume", "auto")
    assert again.code == 0, again.err
    assert "has finished" in again.out


@pytest.mark.parametrize(
    ("trainer", "said"),
    [
        ({"max_steps": 4, "min_steps": 5}, ["min_steps asks for 5 steps at least, and the run ends after 4 .*max_s"]),
        ({"max_epochs": 2, "min_steps": 39}, ["min_steps asks for 39 .*after 38 .trainer.max_ep"]),
        ({"max_epochs": 2, "min_steps": 38, "min_epochs": 2}, []),
        ({"max_steps": 20, "min_epochs": 2}, ["min_epochs asks for 38 steps at least, and the run ends after 20"]),
        ({"max_steps": 1}, []),
    ],
)
def test_a_least_length_that_the_run_cannot_have_is_reported(
    trainer: dict[str, Any], said: list[str], base: dict[str, Any], distill: Distill
) -> None:
    base["trainer"].pop("max_steps", None)
    shortest(base, **trainer)
    done = distill("fit", "-c", "base.yaml", "--dry-run")
    assert done.code == 0, done.err
    warned = [line for line in done.out.splitlines() if "at least, and the run ends" in line]
    assert len(warned) == len(said)
    assert all(re.search(part, line) for part, line in zip(said, warned, strict=True))


def test_a_run_that_ends_before_its_least_length_is_still_judged_at_its_end(
    base: dict[str, Any], fitted: Callable[..., Path]
) -> None:
    shortest(base, max_steps=2, min_epochs=3, min_steps=500)
    assert Run.open(fitted()).result["steps"] == 2
    assert "val/accuracy" in Path("runs/base/one/metrics.csv").read_text()


@pytest.mark.parametrize(
    ("trainer", "steps"),
    [
        ({"max_steps": 5}, 5),
        ({"max_steps": -1, "max_epochs": 2}, 38),
        ({"max_steps": 30, "max_epochs": 2}, 30),
        ({"max_steps": -1, "max_epochs": 2, "accumulate_grad_batches": 2, "limit_train_batches": 0.5}, 10),
    ],
)
def test_the_steps_of_a_run_are_known_before_it_begins(
    base: dict[str, Any], trainer: dict[str, Any], steps: int
) -> None:
    job = build({**base, "name": "base", "data": {"init_args": base["data"]}, "trainer": base["trainer"] | trainer})
    assert steps_of(job.data, make_trainer(job)) == steps
