"""The promise that settings which change nothing are refused, or reported where a recipe may have brought them."""

from __future__ import annotations

from typing import Any

import pytest
from pytorch_lightning import Callback
from pytorch_lightning.callbacks import EarlyStopping

from distill.callbacks import ResumeCheckpoint
from distill.core.utils.errors import UserError
from distill.run.loggers.config import WandbConfig
from distill.workflows.job.checks import high_rate, idle_settings
from distill.workflows.job.defaults import origin


class Mine(Callback):
    """It may end a run for all that is known of it."""


@pytest.mark.parametrize(
    ("trainer", "callbacks", "logs", "said"),
    [
        ({"max_steps": 5, "min_steps": 9}, [], True, ["trainer.min_steps has no effect: nothing ends the run before "]),
        (
            {"max_epochs": 5, "min_steps": 9, "min_epochs": 2},
            [ResumeCheckpoint()],
            True,
            ["min_epochs and trainer.min"],
        ),
        ({"max_steps": 5, "min_steps": 9}, [EarlyStopping("loss")], True, []),
        ({"max_steps": 5, "min_steps": 9}, [Mine()], True, []),
        ({"max_steps": 5, "min_steps": 9, "max_time": "00:01:00:00"}, [], True, []),
        ({"min_steps": 9, "max_epochs": -1}, [], True, []),  # says how long the run is
        ({"max_steps": 5, "log_every_n_steps": 1}, [], False, ["trainer.log_every_n_steps has no effect"]),
        ({"max_steps": 5, "log_every_n_steps": 1}, [], True, []),
        ({"max_steps": 5}, [], False, []),
    ],
)
def test_settings_of_the_trainer_that_change_nothing_are_reported(
    trainer: Any, callbacks: Any, logs: bool, said: list[str]
) -> None:
    found = idle_settings(trainer, callbacks, logs)
    assert len(found) == len(said)
    assert all(part in line for part, line in zip(said, found, strict=True))


@pytest.mark.parametrize("name", ["project", "entity", "group"])
def test_an_empty_name_for_wandb_is_refused(name: str) -> None:
    with pytest.raises(UserError, match=rf"logging\.wandb\.{name} = ' ': must name something"):
        WandbConfig(**{name: " "})


def test_only_a_model_without_a_tokenizer_leads_to_another_tokenizer() -> None:
    full = {"model": {"teacher": "nowhere"}}
    there = UserError("has no tokenizer", key="data.tokenizer", value="nowhere", hint="check it")
    missing = UserError("no such folder", key="data.tokenizer", value="nowhere", hint="check it")
    assert origin(there, {}, full).hint == "check it; or set data.tokenizer"
    assert origin(missing, {}, full).hint == "check it"
    assert origin(missing, {}, full).key == "model.teacher"


def test_a_rate_at_which_adamw_cannot_train_is_reported() -> None:
    assert high_rate({"lr": 100})[0].startswith("model.optimizer.lr = 100: AdamW moves each weight by about this much")
    assert not high_rate({"lr": 0.1})
    assert not high_rate({"lr": 1.0, "name": "sgd"})
    assert not high_rate({})
