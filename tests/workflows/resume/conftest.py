"""Runs that keep every checkpoint, runs that were stopped, and what is different between two of them."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import yaml
from pytorch_lightning.loggers import Logger
from torch import Tensor

from distill.cli.main import main
from distill.config.files import long_form
from distill.core.utils.quiet import quiet_lightning
from distill.run.checkpoints.file import read
from distill.run.checkpoints.names import resume_checkpoints
from distill.run.folder import Run
from distill.training.module import Distillation
from distill.workflows.job.build import build, make_trainer

# Plain functions and classes, each function with a fixture of its name for the tests.


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
    """Pruning and quantization whose schedules overlap, and averaged weights."""
    pruning = {"final_sparsity": 0.8, "begin": 0.0, "end": 0.7}
    quantization = {"observe": 0.2, "begin": 0.4, "freeze_observers": 0.8}
    return [
        {"class_path": "GradualMagnitudePruning", "init_args": pruning},
        {"class_path": "QuantizationAwareTraining", "init_args": quantization},
        {"class_path": "ExponentialMovingAverage", "init_args": {"decay": 0.9}},
    ]


def train(config: dict[str, Any], folder: Path, checkpoint: Path | None = None) -> Trained:
    """Train as ``distill fit`` does, from ``checkpoint`` on if one is given, and keep a checkpoint of every step."""
    keep = {"class_path": "ResumeCheckpoint", "init_args": {"every_n_steps": 1, "keep": 1000}}
    job = build(long_form(config | {"callbacks": [*config.get("callbacks", []), keep]}), run=Run(folder))
    rows = Rows()
    with quiet_lightning():
        trainer = make_trainer(job)
        trainer.loggers = [rows]
        trainer.fit(job.module, datamodule=job.data, ckpt_path=checkpoint, weights_only=True)
    return Trained(resume_checkpoints(folder / "checkpoints"), rows.rows)


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


@pytest.fixture(name="train", scope="session")
def _train() -> Callable[..., Trained]:
    return train


@pytest.fixture(name="differences", scope="session")
def _differences() -> Callable[[Any, Any], list[str]]:
    return lambda a, b: list(differences(a, b))


# ---------------------------------------------------------------------- a run that was stopped


STEPS, STOP = 14, 9  # of the run; done when it is stopped


class World(NamedTuple):
    """A folder with a teacher, data and a configuration, and two runs of it: an undisturbed one of 14 steps, and one
    that was stopped after 9, with the checkpoints of 8 and 9."""

    folder: Path
    whole: Path
    stopped: Path


def at_call(patch: pytest.MonkeyPatch, name: str, count: int, action: Callable[[], object]) -> None:
    """Have the module do something in the ``count``-th call of a method."""
    original, calls = getattr(Distillation, name), iter(range(1, 1000))

    def step(self: Any, *given: Any) -> Any:
        if next(calls) == count:
            action()
        return original(self, *given)

    patch.setattr(Distillation, name, step)


@pytest.fixture(name="at_call")
def _at_call() -> Callable[..., None]:
    return at_call


@pytest.fixture(scope="session")
def world(
    tmp_path_factory: pytest.TempPathFactory,
    recipe: dict[str, Any],
    teacher_dir: str,
    text_folder: str,
    changed: Callable[..., dict[str, Any]],
    joint: list[dict[str, Any]],
) -> World:
    folder = tmp_path_factory.mktemp("world")
    shutil.copytree(teacher_dir, folder / "teacher")
    shutil.copytree(text_folder, folder / "data")
    keep = {"class_path": "ResumeCheckpoint", "init_args": {"every_n_steps": 2}}
    changes = {
        "model": {"teacher": {"path": str(folder / "teacher")}},
        "data": {"path": str(folder / "data"), "train_samples": 55},
        "trainer": {"max_epochs": 2, "max_steps": -1, "val_check_interval": 5, "log_every_n_steps": 1},
        "callbacks": [*joint, keep],
        "runs": str(folder / "runs"),
    }
    (folder / "base.yaml").write_text(yaml.safe_dump(changed(recipe, changes)))
    fit = ["fit", "-c", str(folder / "base.yaml"), "--id"]
    assert main([*fit, "whole"]) == 0
    with pytest.MonkeyPatch.context() as patch:
        at_call(patch, "training_step", STOP, lambda: os.kill(os.getpid(), signal.SIGTERM))
        with pytest.raises(SystemExit, match="143"):
            main([*fit, "stopped"])
    runs = folder / "runs/base"
    return World(folder, runs / "whole", runs / "stopped")


@pytest.fixture
def run(world: World, tmp_path: Path) -> Path:
    """A copy of the stopped run, which knows of no other."""
    copied = Path(shutil.copytree(world.stopped, tmp_path / "base/run"))
    plan = json.loads((copied / "plan.json").read_text())
    (copied / "plan.json").write_text(json.dumps(plan | {"folder": str(copied)}))
    return copied


@pytest.fixture
def same(world: World, differences: Callable[[Any, Any], list[str]]) -> Callable[[Path], None]:
    """Requires that a run ended as the undisturbed one: history, scores, the student's bits, the last checkpoint."""

    def check(run: Path) -> None:
        assert (run / "metrics.csv").read_bytes() == (world.whole / "metrics.csv").read_bytes()
        for name in ("scores", "steps", "saved_step", "complete"):
            assert Run(run).result[name] == Run(world.whole).result[name]
        for name in ("model.safetensors", "compression.json"):
            assert (run / "student" / name).read_bytes() == (world.whole / "student" / name).read_bytes()
        ours, theirs = (read(folder / f"checkpoints/last-{STEPS}.ckpt") for folder in (run, world.whole))
        assert differences(ours, theirs) == []

    return check


def hashes(run: Path) -> dict[str, str]:
    """Of every file, but for the lock, which says who writes."""
    files = [path for path in run.rglob("*") if path.is_file() and path.name != ".lock"]
    return {str(path.relative_to(run)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(name="hashes")
def _hashes() -> Callable[[Path], dict[str, str]]:
    return hashes
