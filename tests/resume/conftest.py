"""Runs that keep every checkpoint, and what is different between two of them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from pytorch_lightning.loggers import Logger
from torch import Tensor

from distill.build import build, make_trainer, quiet
from distill.callbacks.last import saved
from distill.checkpoint import read
from distill.config import long_form
from distill.run import Run

# Plain functions, which ranks.py imports too, each with a fixture of its name for the tests.


class Rows(Logger):
    """Keeps what is logged."""

    name, version = "rows", ""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[tuple[int | None, dict[str, float]]] = []

    def log_hyperparams(self, *given: Any, **named: Any) -> None:
        pass

    def log_metrics(self, metrics: Any, step: int | None = None) -> None:
        self.rows.append((step, {name: float(value) for name, value in metrics.items()}))


class Trained(NamedTuple):
    """Training that has ended: its checkpoints by step, the newest first, and what was logged."""

    checkpoints: dict[int, Path]
    rows: list[tuple[int | None, dict[str, float]]]

    @property
    def steps(self) -> int:
        return max(self.checkpoints)

    @property
    def final(self) -> dict[str, Any]:
        return read(self.checkpoints[self.steps])


def joint() -> list[dict[str, Any]]:
    """Pruning and quantisation whose schedules overlap, and averaged weights."""
    pruning = {"final_sparsity": 0.8, "begin": 0.0, "end": 0.7}
    quantization = {"observe": 0.2, "begin": 0.4, "freeze_observers": 0.8}
    return [
        {"class_path": "GradualMagnitudePruning", "init_args": pruning},
        {"class_path": "QuantizationAwareTraining", "init_args": quantization},
        {"class_path": "ExponentialMovingAverage", "init_args": {"decay": 0.9}},
    ]


def changed(recipe: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """A copy of ``recipe`` in which the values of sections are replaced."""
    config = copy.deepcopy(recipe)
    for section, values in copy.deepcopy(changes).items():
        config[section] = config[section] | values if isinstance(values, dict) else values
    return config


def train(config: dict[str, Any], folder: Path, checkpoint: Path | None = None) -> Trained:
    """Train as ``distill fit`` does, from ``checkpoint`` on if one is given, and keep a checkpoint of every step."""
    keep = {"class_path": "Last", "init_args": {"every_n_steps": 1, "keep": 1000}}
    job = build(long_form(config | {"callbacks": [*config.get("callbacks", []), keep]}), run=Run(folder))
    rows = Rows()
    with quiet():
        trainer = make_trainer(job)
        trainer.loggers = [rows]
        trainer.fit(job.module, datamodule=job.data, ckpt_path=checkpoint, weights_only=True)
    return Trained(saved(folder / "checkpoints"), rows.rows)


def differences(a: Any, b: Any, place: str = "") -> Iterator[str]:
    """Where two checkpoints differ in any bit; the time that they took is no part of what was trained."""
    if isinstance(a, Tensor):
        if not (isinstance(b, Tensor) and a.dtype == b.dtype and a.shape == b.shape and _bits(a, b)):
            yield place
    elif isinstance(a, dict):
        for name in {**a, **b}:
            if name == "seconds":
                continue
            if name not in a or name not in b:
                yield f"{place}.{name} is in one only"
            else:
                yield from differences(a[name], b[name], f"{place}.{name}")
    elif isinstance(a, (list, tuple)):
        if type(a) is not type(b) or len(a) != len(b):
            yield f"{place}: {a} or {b}"
        for index, (x, y) in enumerate(zip(a, b, strict=False)):
            yield from differences(x, y, f"{place}.{index}")
    elif type(a) is not type(b) or not (a == b or (a != a and b != b)):
        yield f"{place}: {a!r} or {b!r}"


def _bits(a: Tensor, b: Tensor) -> bool:
    """Whether all is equal to the bit; 0.0 and -0.0 are not, and NaN and NaN are."""
    return torch.equal(a.contiguous().flatten().view(torch.uint8), b.contiguous().flatten().view(torch.uint8))


@pytest.fixture(name="joint", scope="session")
def _joint() -> list[dict[str, Any]]:
    return joint()


@pytest.fixture(name="changed", scope="session")
def _changed() -> Callable[..., dict[str, Any]]:
    return changed


@pytest.fixture(name="train", scope="session")
def _train() -> Callable[..., Trained]:
    return train


@pytest.fixture(name="differences", scope="session")
def _differences() -> Callable[[Any, Any], list[str]]:
    return lambda a, b: list(differences(a, b))
