"""Running a configuration: build everything, then make the run's folder, train, save the student, say what came out."""

from __future__ import annotations

import logging
import os
import signal
import sys
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Callback, LightningDataModule, LightningModule, Trainer, seed_everything
from pytorch_lightning.callbacks import ModelCheckpoint, RichProgressBar
from pytorch_lightning.trainer.states import TrainerStatus
from pytorch_lightning.utilities.exceptions import MisconfigurationException, SIGTERMException
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from distill import artifact, config as configuration
from distill.callbacks import Determinism
from distill.class_paths import check, guarded
from distill.complete import complete
from distill.errors import UserError
from distill.loggers import LoggingConfig, make_loggers
from distill.module import Distillation
from distill.outcome import Scores, outcome, show_outcome, show_scores
from distill.run import Run
from distill.scrub import refuse_hidden
from distill.typed import Typed, located

__all__ = ["Job", "build", "default_precision", "evaluate", "fit"]

_RUN_ID = "DISTILL_RUN_ID"
"""Tells the processes that a distributed run starts which folder is theirs."""


@dataclass
class Job:
    """A run with everything built and nothing written.

    Attributes:
        config: The resolved configuration.
        run: The run; its folder is not there yet.
        data: Read and ready.
        module: With teacher, student and losses.
        trainer: Without loggers, which would write.
        logging: Which loggers the run gets.
    """

    config: dict[str, Any]
    run: Run
    data: LightningDataModule
    module: Distillation
    trainer: Trainer
    logging: LoggingConfig


def build(config: Mapping[str, Any], *, allow: Sequence[str] = (), run_id: str | None = None) -> Job:
    """Build all that ``config`` describes.

    Args:
        config: As :func:`distill.config.load` gives it.
        allow: Packages whose classes the configuration may name, besides our own.
        run_id: The run's id; a new one if not given.

    Raises:
        UserError: for whatever is wrong with it. Nothing was written.
    """
    with _built(config, allow) as (typed, made):
        run = _plan(typed.config, run_id)
        callbacks, arguments = typed.make("callbacks"), typed.make("trainer")
        made |= {"logging": typed.make("logging"), "trainer": trainer(arguments, callbacks, run, typed, made["data"])}
        return Job(config=typed.resolved(), run=run, **made)


@contextmanager
def _built(config: Mapping[str, Any], allow: Sequence[str]) -> Iterator[tuple[Typed, dict[str, Any]]]:
    """The typed configuration with data and module made of it, under the guard that limits imports."""
    refuse_hidden(config)
    check(config, allow)
    with guarded(allow), _quiet():
        typed = Typed(complete(config), allow)
        typed.make("logging")
        typed.make("callbacks")
        check_trainer(typed.config["trainer"])
        losses = typed.losses()
        seed = _seed(typed.config["seed"])
        data = typed.make("data")
        with _located("data", typed.config["data"]):
            data.prepare_data()
            data.setup("fit")
            labels = getattr(data, "labels", None)
        # The student's fresh weights are a function of the seed, whatever reading the data drew.
        seed_everything(seed, workers=True, verbose=False)
        module = typed.model(losses, labels)
        yield typed, {"data": data, "module": module}


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what Lightning and transformers say about themselves at every start."""
    logging.getLogger("pytorch_lightning.utilities.rank_zero").setLevel(logging.WARNING)
    logging.getLogger("lightning_fabric.utilities.seed").setLevel(logging.WARNING)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        warnings.filterwarnings("ignore", message=".*does not have many workers.*")
        warnings.filterwarnings("ignore", message=".*isinstance.treespec, LeafSpec.*")
        warnings.filterwarnings("ignore", message="Checkpoint directory .* exists and is not empty")
        yield


@contextmanager
def _located(key: str, written: Any) -> Iterator[None]:
    """Give errors from inside the block the full key of what they complain about."""
    try:
        yield
    except UserError as error:
        raise located(error, key, written) from error


def _seed(seed: int) -> int:
    if not 0 <= seed < 2**32:
        raise UserError("must be from 0 to 4294967295", key="seed", value=seed, mend="give another seed")
    return seed


def _plan(config: Mapping[str, Any], run_id: str | None) -> Run:
    """The run's folder; on ranks other than zero the one that rank zero made."""
    run_id = run_id or os.environ.get(_RUN_ID)
    if rank_zero_only.rank == 0:
        return Run.plan(config["runs"], config["name"], run_id)
    if run_id is None:
        rule = "is needed where the processes are started by hand: they share one folder"
        raise UserError(rule, key="--id", mend="give all of them the same --id")
    return Run(Path(config["runs"]) / config["name"] / run_id)


# ---------------------------------------------------------------------- the trainer


def default_precision(accelerator: str) -> str:
    """``bf16-mixed`` on a CUDA device that computes in it, else ``32-true``.

    A CPU without instructions for bfloat16 is some 200 times slower in it.
    """
    cuda = accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available()
    return "bf16-mixed" if cuda and torch.cuda.is_bf16_supported(including_emulation=False) else "32-true"


def check_trainer(arguments: Mapping[str, Any]) -> None:
    """Refuse numbers that Lightning would refuse late, or not at all.

    Raises:
        UserError: naming the key.
    """
    least = {"max_epochs": -1, "max_steps": -1, "accumulate_grad_batches": 1, "log_every_n_steps": 1}
    for name, bound in least.items():
        value = arguments.get(name)
        if isinstance(value, int) and (value < bound or (bound < 0 and value == 0)):
            rule = f"must be at least {max(bound, 1)}"
            raise UserError(rule, key=f"trainer.{name}", value=value, mend="give another number")
    ends = [name for name in ("max_epochs", "max_steps") if (arguments.get(name) or -1) > 0]
    if not ends and not arguments.get("max_time"):
        raise UserError(
            "a run needs an end", key="trainer.max_epochs", value=arguments.get("max_epochs"), mend="set it, or max_steps"
        )


def trainer(arguments: Mapping[str, Any], callbacks: Sequence[Callback], run: Run, typed: Typed, data: Any) -> Trainer:
    """The Trainer of ``run``, without loggers.

    Raises:
        UserError: if Lightning refuses ``arguments``.
    """
    given = {name: value for name, value in arguments.items() if name in typed.config["trainer"]}
    bar = given.pop("enable_progress_bar", None)
    bar = sys.stdout.isatty() if bar is None else bar
    checkpoints = given.pop("enable_checkpointing", None) is not False
    own: list[Callback] = [Determinism(typed.config["seed"]), Scores(spoken=not bar)]
    own += [RichProgressBar(leave=True)] if bar else []
    mine = [c for c in callbacks if isinstance(c, ModelCheckpoint)]
    for callback in mine:
        callback.dirpath = callback.dirpath or str(run.checkpoints)
    if checkpoints and not mine:
        own.append(_checkpoint(run, typed, data, given))
    try:
        return Trainer(
            **{"precision": default_precision(str(given.get("accelerator", "auto"))), "log_every_n_steps": 10, **given},
            callbacks=[*callbacks, *own],
            logger=False,
            default_root_dir=run.folder,
            enable_progress_bar=bar,
            enable_checkpointing=checkpoints or bool(mine),
            enable_model_summary=False,
            use_distributed_sampler=False,  # the data's batches know the ranks
        )
    except (MisconfigurationException, ValueError, TypeError, RuntimeError) as error:
        raise UserError(str(error).splitlines()[0], key="trainer", mend="check its arguments") from error


def _checkpoint(run: Run, typed: Typed, data: Any, arguments: Mapping[str, Any]) -> ModelCheckpoint:
    validated = arguments.get("limit_val_batches") != 0
    if not validated:
        return ModelCheckpoint(run.checkpoints, filename="{step}", save_last=True)
    from distill.tasks import make_task

    task = typed.task()
    task = make_task(task) if isinstance(task, str) else task
    return ModelCheckpoint(
        run.checkpoints, filename="{step}", monitor=f"val/{task.monitor}", mode=task.mode, save_last=True
    )
