"""The promise that a key which no class takes is refused before anything heavy is imported."""

from __future__ import annotations

import inspect
from dataclasses import fields
from typing import Any

import pytest
from pytorch_lightning import Trainer

from distill.config.argument_names import TRAINER_SKIPPED, arguments_of, refuse_unknown
from distill.config.files import load, recipes
from distill.core.utils.errors import UserError
from distill.models.students import StudentConfig
from distill.models.teachers import TeacherConfig
from distill.run.loggers.config import LoggingConfig, WandbConfig
from distill.training.module import Distillation
from distill.training.optimizer import OptimizerConfig


def test_what_a_class_takes_is_read_off_its_source() -> None:
    from distill.config import argument_names

    classes: dict[str, Any] = {
        "model": Distillation,
        "model.student": StudentConfig,
        "model.teacher": TeacherConfig,
        "model.optimizer": OptimizerConfig,
        "trainer": Trainer,
        "logging": LoggingConfig,
        "logging.wandb": WandbConfig,
    }
    assert classes.keys() == argument_names._CLASSES.keys()
    for section, place in argument_names._CLASSES.items():
        cls = classes[section]
        plain = cls in (Distillation, Trainer)
        names = [*inspect.signature(cls).parameters] if plain else [field.name for field in fields(cls)]
        assert [*arguments_of(*place)] == names, section
    assert TRAINER_SKIPPED.keys() <= {*arguments_of(*argument_names._CLASSES["trainer"])}


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("trainer.max_epoch", "3", "trainer.max_epoch = 3: Trainer has no 'max_epoch'. did you mean 'max_epochs'"),
        ("trainer.logger", "false", "trainer.logger = False: cannot be given here. write logging at the top level"),
        ("model.studnt", "x", "model.studnt = 'x': Distillation has no 'studnt'. did you mean 'student'"),
        ("model.optimizer.lrr", "1", "model.optimizer.lrr = 1: OptimizerConfig has no 'lrr'. did you mean 'lr'"),
        ("logging.wandb.projekt", "x", "WandbConfig has no 'projekt'. did you mean 'project'"),
        ("monitor", "acc", "init_args: {monitor: val/accuracy, mode: max}"),
        (
            "metric_for_best_model",
            "eval_perplexity",
            "{class_path: BestCheckpoint, init_args: {monitor: val/perplexity, ",
        ),
        ("metric", "loss", "{monitor: val/METRIC, mode: max}"),
    ],
)
def test_a_mistyped_key_is_refused_with_what_was_meant(key: str, value: str, said: str) -> None:
    with pytest.raises(UserError) as error:
        load(["quickstart/distilled"], [(key, value)])
    assert said in str(error.value)


def test_recipes_and_classes_of_ones_own_pass() -> None:
    for name in recipes():
        load([name])
    refuse_unknown({"model": {"student": {"class_path": "mine.Net", "init_args": {"width": 3}}}, "trainer": None})
