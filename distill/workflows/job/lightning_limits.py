"""What of Lightning cannot work in a run of ours, refused by name. What it refuses: ``lightning_refusals.py``."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pytorch_lightning import Callback
from pytorch_lightning.callbacks import (
    BackboneFinetuning,
    BaseFinetuning,
    BasePredictionWriter,
    BatchSizeFinder,
    Checkpoint,
    EarlyStopping,
    LearningRateFinder,
    ModelCheckpoint,
    ProgressBar,
    ThroughputMonitor,
    Timer,
)
from pytorch_lightning.callbacks.spike import SpikeDetection
from pytorch_lightning.plugins import CheckpointIO, Precision

from distill.compression.base import refuse_broken_contract
from distill.core.idle_settings import idle
from distill.core.internals.lightning import start_method
from distill.core.utils.errors import UserError, nearest
from distill.core.utils.words import amount
from distill.workflows.job.lightning_refusals import PACKAGES

__all__ = [
    "check_callbacks",
    "check_interval",
    "check_monitors",
    "check_plugins",
    "check_trainer",
    "no_end",
]

_COUNTS = (
    "max_epochs",
    "max_steps",
    "accumulate_grad_batches",
    "log_every_n_steps",
    "check_val_every_n_epoch",
    "num_nodes",
)
"""Arguments of the trainer that are 1 or more."""

_WITHIN = ("ddp_spawn", "ddp_fork", "ddp_notebook")
"""Strategies that start processes out of this one, with everything built: it can be neither copied nor forked."""

_FROZEN = "freeze parameters with model.student.freeze"

# Of a subclass of the user's own only the first three say nothing: it may well know what the module is made of.
_CANNOT: dict[type[Callback], tuple[str, str]] = {
    BatchSizeFinder: (
        "tries batches of other sizes than those that the run is a function of",
        "set data.batch_size; `--dry-run` shows the memory of a step",
    ),
    LearningRateFinder: (
        "sets a learning rate that the run's configuration would not say",
        "search over model.optimizer.lr with `distill sweep`",
    ),
    SpikeDetection: (
        "judges by a running mean that a resumed run does not have, and writes outside of the run's folder",
        "leave it out: a loss that is no longer a number ends a run by itself",
    ),
    BackboneFinetuning: ("needs a module with a `backbone`, and here there is a student and its teacher", _FROZEN),
    ThroughputMonitor: (
        "takes a function, which a configuration cannot name",
        "leave it out: `--dry-run` and `scripts/bench_training.py` show the speed",
    ),
    BaseFinetuning: ("does nothing by itself, only its subclasses do", _FROZEN),
    BasePredictionWriter: ("does nothing by itself, only its subclasses do", "leave it out"),
    Checkpoint: ("does nothing by itself, only its subclasses do", "name ModelCheckpoint, or leave it out"),
    ProgressBar: ("does nothing by itself, only its subclasses do", "name RichProgressBar or TQDMProgressBar"),
    Callback: ("does nothing by itself, only its subclasses do", "`distill list callbacks` shows some"),
}
_WITH_SUBCLASSES = (BatchSizeFinder, LearningRateFinder, SpikeDetection)


def check_trainer(arguments: Mapping[str, Any]) -> None:
    """Refuse values of the trainer that Lightning would refuse late, or not at all.

    Raises:
        UserError: naming the key.
    """
    for name in _COUNTS:
        value = arguments.get(name)
        endless = value == -1 and name.startswith("max_")
        if isinstance(value, int) and value < 1 and not endless:
            raise UserError("must be at least 1", key=f"trainer.{name}", value=value, hint="give another number")
    if not any((arguments.get(name) or -1) > 0 for name in ("max_epochs", "max_steps", "min_epochs", "min_steps")):
        raise no_end(arguments.get("max_epochs"))
    for name, value in arguments.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise UserError("must be a finite number", key=f"trainer.{name}", value=value, hint="give another number")
    _refuse(
        arguments, "limit_train_batches", lambda v: v <= 0, "a run must train", "leave it out, or give some batches"
    )
    _refuse(arguments, "gradient_clip_val", lambda v: v <= 0, "must be greater than 0", "leave it out not to clip")
    _refuse(arguments, "val_check_interval", lambda v: v <= 0, "must be greater than 0", "give batches, or a fraction")
    for name in ("limit_val_batches", "limit_test_batches"):
        problem, wrong = "must be 0 or more batches (integer), or a fraction in [0, 1] (float)", _no_share
        _refuse(arguments, name, wrong, problem, "1.0 takes all")
    if arguments.get("overfit_batches"):
        for name in ("limit_train_batches", "limit_val_batches"):
            if arguments.get(name) is not None:
                raise idle(f"trainer.{name}", arguments[name], "trainer.overfit_batches", "drop that one")
    _refuse(arguments, "devices", lambda v: v == 0, "must be at least 1", "give a number of devices, or auto")
    _refuse(arguments, "num_sanity_val_steps", lambda v: v < -1, "must be 0 or more", "or -1 for all batches")
    if (value := arguments.get("max_time")) is not None and _no_time(value):
        raise UserError("must be greater than 0", key="trainer.max_time", value=value, hint="give more time")
    if arguments.get("gradient_clip_algorithm") is not None and arguments.get("gradient_clip_val") is None:
        algorithm = arguments["gradient_clip_algorithm"]
        hint = "give trainer.gradient_clip_val too"
        raise UserError("nothing is clipped", key="trainer.gradient_clip_algorithm", value=algorithm, hint=hint)


def no_end(max_epochs: object) -> UserError:
    """What is said of a run that would not end."""
    return UserError("a run needs an end", key="trainer.max_epochs", value=max_epochs, hint="set it, or max_steps")


def _refuse(arguments: Mapping[str, Any], name: str, wrong: Callable[[float], bool], problem: str, hint: str) -> None:
    value = arguments.get(name)
    if isinstance(value, (int, float)) and not isinstance(value, bool) and wrong(value):
        raise UserError(problem, key=f"trainer.{name}", value=value, hint=hint)


def _no_share(value: float) -> bool:
    return value < 0 or (isinstance(value, float) and value > 1)


def check_interval(arguments: Mapping[str, Any], batches: float) -> None:
    """Refuse a validation that would come after the end of every epoch of so many ``batches``.

    Raises:
        UserError: naming the key.
    """
    every = arguments.get("val_check_interval")
    if arguments.get("limit_val_batches") == 0 or arguments.get("check_val_every_n_epoch", 1) is None:
        return
    if isinstance(every, int) and not isinstance(every, bool) and every > batches:
        problem, hint = (
            f"an epoch has {amount(int(batches), 'batch')}, so no validation comes",
            "give fewer, or leave it out",
        )
        raise UserError(problem, key="trainer.val_check_interval", value=every, hint=hint)


def _no_time(value: Any) -> bool:
    """Whether a duration, as Lightning takes it, is none: ``00:00:00:00``, or a mapping of units."""
    parts = value.split(":") if isinstance(value, str) else value.values() if isinstance(value, Mapping) else ()
    return bool(parts) and all(str(part).strip("0.") == "" for part in parts)


def check_plugins(arguments: Mapping[str, Any]) -> None:
    """Refuse built plugins that are in the way of ours, and a strategy whose processes could not train.

    Raises:
        UserError: naming the plugin, or the strategy.
    """
    strategy = arguments.get("strategy")
    started = start_method(strategy)
    if (isinstance(strategy, str) and strategy.startswith(_WITHIN)) or started not in (None, "popen"):
        name = strategy if isinstance(strategy, str) else type(strategy).__name__
        problem = "starts processes out of this one, which holds a lock and threads that they would not have"
        raise UserError(problem, key="trainer.strategy", value=name, hint="write ddp, or leave it out")
    given = arguments.get("plugins") or []
    for index, plugin in enumerate(given if isinstance(given, (list, tuple)) else [given]):
        key, name = f"trainer.plugins.{index}", type(plugin).__name__
        if isinstance(plugin, CheckpointIO):
            problem = "checkpoints are written by a run itself, so that a kill leaves none half"
            raise UserError(problem, key=key, value=name, hint="leave it out")
        if isinstance(plugin, Precision):
            raise UserError("a run's precision has a key of its own", key=key, value=name, hint="set trainer.precision")


def check_callbacks(callbacks: Sequence[Callback]) -> None:
    """Refuse built callbacks that cannot work here.

    Raises:
        UserError: naming the callback, the reason, and what to take instead.
    """
    for index, callback in enumerate(callbacks):
        key, name = f"callbacks.{index}", type(callback).__name__
        refuse_broken_contract(callback, key)
        for kind, (problem, hint) in _CANNOT.items():
            if type(callback) is kind or (kind in _WITH_SUBCLASSES and isinstance(callback, kind)):
                raise UserError(problem, key=key, value=name, hint=hint)
        if isinstance(callback, Timer) and callback.time_remaining() is not None and not callback.time_remaining():
            raise UserError("must be greater than 0", key=f"{key}.duration", value="00:00:00:00", hint="give more time")


def check_monitors(callbacks: Sequence[Callback], known: Sequence[str]) -> None:
    """Refuse a callback that watches a metric which the run never logs.

    Args:
        callbacks: Of the run. Those of the user may log metrics of their own, and then nothing is said.
        known: What module and data log.

    Raises:
        UserError: naming it.
    """
    if any(not type(callback).__module__.startswith((*PACKAGES, "distill.")) for callback in callbacks):
        return
    for index, callback in enumerate(callbacks):
        monitor = callback.monitor if isinstance(callback, (EarlyStopping, ModelCheckpoint)) else None
        if monitor is None or monitor in known or getattr(callback, "strict", True) is False:
            continue
        # Lightning counts these two itself; the others are of our own callbacks, by layer.
        if monitor not in ("epoch", "step") and not monitor.startswith(("prune/", "qat/", "structure/", "val/float_")):
            problem, key = "the run logs no such metric", f"callbacks.{index}.monitor"
            raise UserError(problem, key=key, value=monitor, hint=nearest(monitor, known))
