"""No key of a configuration is idle: another value makes another object, or is refused."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

import pytest
import torch
from pytorch_lightning import Trainer
from torch import nn

import distill
import distill.callbacks
import distill.core.schedules
import distill.losses
from distill.callbacks import Compression
from distill.compression.quantization.scheme import ActivationScheme, WeightScheme
from distill.compression.quantization.starts.settings import Start
from distill.core.images import ImageSettings
from distill.core.schedules import Schedule
from distill.core.utils.errors import UserError
from distill.data import TextData
from distill.losses import DistillationLoss
from distill.models.students import LoraConfig, StudentConfig
from distill.models.teachers import TeacherConfig
from distill.run.loggers.config import LoggingConfig, WandbConfig
from distill.training.optimizer import OptimizerConfig, learning_rate_factor, make_optimizer
from distill.workflows.job.explain import class_arguments
from distill.workflows.job.lightning_limits import check_trainer

CONFIGS = (
    OptimizerConfig,
    StudentConfig,
    TeacherConfig,
    LoggingConfig,
    WandbConfig,
    WeightScheme,
    ActivationScheme,
    Start,
    TextData,
    ImageSettings,
)
# What must be given, and what another argument needs beside it to mean something.
NEEDED: dict[str, dict[str, Any]] = {
    "Constant": {"value": 1.0},
    "ContrastiveRepresentation": {"taps": {"a": "a"}},
    "Cosine": {"start": 1.0, "end": 0.0},
    "FeatureAttention": {"taps": {"a": "a"}},
    "FlowOfSolution": {"taps": {"a": "a", "b": "b"}},
    "GradualMagnitudePruning": {"final_sparsity": 0.5},
    "Linear": {"start": 1.0, "end": 0.0},
    "LowRank": {"rank": 4},
    "Mixup": {"classes": 10},
    "WarmStart": {"run": "a"},
    "StructuredPruning": {"neurons": 0.5},
    "TeacherConfig": {"path": "a"},
    "TextData": {"path": "a", "tokenizer": "b"},
    "VariationalInformation": {"taps": {"a": "a"}},
    "WarmUp": {"value": 1.0},
}
BESIDE: dict[str, dict[str, Any]] = {
    "ActivationScheme.momentum": {"observer": "moving_average"},
    "ActivationScheme.percentile": {"observer": "percentile"},
    "GradualMagnitudePruning.freeze": {"regrow": 0.1},
    "GradualMagnitudePruning.initial_sparsity": {"schedule": "cubic"},
    "LowRank.energy": {"rank": None, "energy": 0.9},
    "OptimizerConfig.momentum": {"name": "sgd"},
    "WeightScheme.format": {"bits": 4},
    "WeightScheme.group_size": {"granularity": "group", "group_size": 16},
    "StructuredPruning.channels": {"neurons": 0.0, "channels": 0.25},
    "TextData.doc_stride": {"task": "question-answering"},
    "TextData.files": {"path": None},
    "TextData.images": {"task": "image-classification", "tokenizer": ""},
    "TextData.max_target_length": {"task": "seq2seq"},
    "TextData.name": {"path": "a/b"},
    "TextData.prefix": {"task": "seq2seq"},
    "WeightScheme.granularity": {"group_size": None},
}
OTHER: dict[str, Any] = {
    "ActivationScheme.percentile": 99.0,
    "AttentionTransfer.layers": "last",
    "ContrastiveRepresentation.taps": {"a": "b"},
    "CrossEntropy.class_weights": [1.0, 2.0],
    "CrossEntropy.label_smoothing": 0.2,
    "FeatureAttention.taps": {"a": "b"},
    "FitNetHint.layers": "last",
    "FitNetHint.taps": {"a": "b"},
    "FlowOfSolution.taps": {"a": "b", "c": "d"},
    "GradualMagnitudePruning.criterion": "movement",
    "GradualMagnitudePruning.granularity": "2:4",
    "GradualMagnitudePruning.types": ["Conv1D"],
    "GradualMagnitudePruning.overrides": {"classifier": 0.2},
    "LoggingConfig.wandb": WandbConfig(),
    "OptimizerConfig.betas": (0.8, 0.9),
    "OptimizerConfig.name": "sgd",
    "QuantizationAwareTraining.activations": None,
    "QuantizationAwareTraining.embeddings": None,
    "QuantizationAwareTraining.start": Start(method="gptq"),
    "QuantizationAwareTraining.types": ["Conv1D"],
    "QuantizationAwareTraining.overrides": {"classifier": 4},
    "QuantizationAwareTraining.weights": WeightScheme(bits=4),
    "RelationTransfer.version": 1,
    "RelationalKD.taps": {"a": "b"},
    "SimilarityPreserving.taps": {"a": "b"},
    "Start.method": "gptq",
    "StudentConfig.lora": LoraConfig(r=4),
    "TextData.columns": {"text": "a"},
    "TextData.files": {"train": "a.csv"},
    "TextData.images": ImageSettings(crop=0.25),
    "TextData.splits": {"train": "a"},
    "TextData.task": "causal-lm",
    "VariationalInformation.taps": {"a": "b"},
    "WandbConfig.artifacts": ["student"],
    "WeightScheme.format": "nf4",
    "WeightScheme.granularity": "tensor",
    "WeightScheme.group_size": 32,
}


def classes() -> Iterator[type]:
    """Every class of ours that a configuration can name, and the sections that are typed by a class."""
    for module, base in (
        (distill.losses, DistillationLoss),
        (distill.core.schedules, Schedule),
        (distill.callbacks, object),
    ):
        for name in module.__all__:
            cls = getattr(module, name)
            if (
                inspect.isclass(cls)
                and issubclass(cls, base)
                and not inspect.isabstract(cls)
                and cls is not Compression
            ):
                yield cls
    yield from CONFIGS


ARGUMENTS = [
    (cls, name, kind)
    for cls in classes()
    for name, (kind, _) in class_arguments(cls).items()
    if cls is not distill.callbacks.BestCheckpoint  # Lightning's arguments
]


def another(key: str, kind: Any, default: Any) -> Any:
    """A value of the type that is not ``default``."""
    if key in OTHER:
        return OTHER[key]
    for option in get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,):
        if option is type(None):
            continue
        if get_origin(option) is Literal:
            return next(choice for choice in get_args(option) if choice != default)
        if option is bool:
            return not default
        if option is float:
            return 0.37 if default != 0.37 else 0.2
        if option is int:
            return 4 if default in (None, 8) else int(default) + 2
        if option is str:
            return "other"
        if get_origin(option) in (list, Sequence):
            return [1] if int in get_args(option) else ["other"]
        if get_origin(option) is dict or option is dict:
            return {"other": 1}
    raise AssertionError(f"no other value of {key} is known: {kind}")


def state(value: Any, depth: int = 5) -> Any:
    """All that an object holds, as plain values."""
    if isinstance(value, torch.Tensor):
        return value.tolist()
    if isinstance(value, Mapping):
        return {str(name): state(item, depth) for name, item in value.items()}
    if isinstance(value, (list, tuple, set)):
        return [state(item, depth) for item in value]
    if callable(value) or isinstance(value, (str, int, float, bool, type(None))) or depth == 0:
        return getattr(value, "__qualname__", value)
    held = {name: state(item, depth - 1) for name, item in getattr(value, "__dict__", {}).items()}
    return type(value).__name__, held


@pytest.mark.parametrize(("cls", "name", "kind"), ARGUMENTS, ids=[f"{cls.__name__}.{n}" for cls, n, _ in ARGUMENTS])
def test_another_value_makes_another_object(cls: type, name: str, kind: Any) -> None:
    key = f"{cls.__name__}.{name}"
    given = NEEDED.get(cls.__name__, {}) | BESIDE.get(key, {})
    parameter = inspect.signature(cls).parameters.get(name)
    default = given.get(name, parameter.default if parameter else None)
    other = another(key, kind, default)
    assert other != default
    assert state(cls(**given)) != state(cls(**{**given, name: other}))


@cache
def read() -> set[str]:
    """The attributes that the package reads anywhere, and the texts in it."""
    package = Path(distill.__file__).parent
    found: set[str] = set()
    for path in [*package.rglob("*.py"), *package.glob("callbacks/*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
                found.add(node.attr)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.add(node.value)
    return found


@pytest.mark.parametrize(("cls", "name", "kind"), ARGUMENTS, ids=[f"{cls.__name__}.{n}" for cls, n, _ in ARGUMENTS])
def test_what_is_kept_is_read(cls: type, name: str, kind: Any) -> None:
    assert {name, f"_{name}", f"{name}s"} & read()


def course(**settings: Any) -> tuple[Any, ...]:
    """What an optimizer's configuration comes to: the optimizer's groups, and the rates of a run of 20 steps."""
    config = OptimizerConfig(**settings)
    optimizer = make_optimizer(config, [nn.Linear(2, 2)])
    groups = [{name: value for name, value in g.items() if name != "params"} for g in optimizer.param_groups]
    return groups, [learning_rate_factor(config, step, 20) for step in range(20)]


@pytest.mark.parametrize(
    ("settings", "other"),
    [
        ({}, {"name": "sgd"}),
        ({}, {"lr": 0.1}),
        ({}, {"weight_decay": 0.1}),
        ({}, {"betas": (0.8, 0.9)}),
        ({"name": "sgd"}, {"name": "sgd", "momentum": 0.5}),
        ({}, {"warmup": 3}),
        ({}, {"warmup": 0.5}),
        ({}, {"schedule": "cosine"}),
        ({}, {"end": 0.5}),
    ],
)
def test_every_setting_of_the_optimizer_changes_its_course(settings: dict[str, Any], other: dict[str, Any]) -> None:
    assert course(**settings) != course(**other)


@pytest.mark.parametrize(
    "settings",
    [{"name": "sgd", "betas": (0.8, 0.9)}, {"momentum": 0.5}, {"schedule": "constant", "end": 0.5}],
)
def test_a_setting_that_another_one_makes_idle_is_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="has no effect with"):
        OptimizerConfig(**settings)


TRAINER: dict[str, tuple[Any, Callable[[Trainer], Any]]] = {
    "accumulate_grad_batches": (2, lambda t: t.accumulate_grad_batches),
    "benchmark": (True, lambda t: t._accelerator_connector.strategy is not None and torch.backends.cudnn.benchmark),
    "check_val_every_n_epoch": (2, lambda t: t.check_val_every_n_epoch),
    "gradient_clip_val": (0.5, lambda t: t.gradient_clip_val),
    "limit_train_batches": (2, lambda t: t.limit_train_batches),
    "limit_val_batches": (2, lambda t: t.limit_val_batches),
    "log_every_n_steps": (2, lambda t: t.log_every_n_steps),  # type: ignore[attr-defined]
    "max_epochs": (2, lambda t: t.max_epochs),
    "max_steps": (2, lambda t: t.max_steps),
    "num_sanity_val_steps": (1, lambda t: t.num_sanity_val_steps),
    "precision": ("64-true", lambda t: t.precision),
    "val_check_interval": (2, lambda t: t.val_check_interval),
}


@pytest.mark.parametrize("name", TRAINER)
def test_every_setting_of_the_trainer_reaches_it(name: str) -> None:
    other, seen = TRAINER[name]

    def made(**settings: Any) -> Any:
        check_trainer({"max_epochs": 1} | settings)
        given = {"accelerator": "cpu", "logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
        return seen(Trainer(**given, **({"max_epochs": 1} | settings)))

    before = torch.backends.cudnn.benchmark
    try:
        assert made() != made(**{name: other})
    finally:
        torch.backends.cudnn.benchmark = before
