"""Loggers of a run: a CSV file, TensorBoard and W&B, all inside the run's folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import Logger

from distill.core.ranks import is_rank_zero
from distill.core.utils.extras import installing, missing, require
from distill.core.utils.secrets import scrub
from distill.run.folder import Run
from distill.run.loggers.config import LoggingConfig, WandbConfig
from distill.run.loggers.csv_logger import CsvLogger
from distill.run.loggers.tensorboard_logger import SafeTensorBoardLogger
from distill.run.loggers.wandb_logger import SafeWandbLogger, log_export
from distill.run.loggers.wandb_mode import Decision, decide

__all__ = [
    "CsvLogger",
    "SafeTensorBoardLogger",
    "SafeWandbLogger",
    "check_installed",
    "keep_completions",
    "keep_export",
    "keep_student",
    "make_loggers",
]


def make_loggers(
    config: LoggingConfig,
    run: Run,
    hyperparameters: Mapping[str, Any],
    *,
    at: int | None = None,
    more: bool = False,
) -> list[Logger]:
    """The loggers of ``run``, started on rank zero, with ``hyperparameters`` (scrubbed of secrets) logged.

    Args:
        config: Which ones.
        run: The run.
        hyperparameters: Its configuration.
        at: The optimizer step that a resumed run starts from, 0 if from its beginning; ``None`` for a new run. What
            was logged beyond it is logged again, and is in the history once.
        more: Whether :func:`keep_completions` will have something to show.
    """
    loggers: list[Logger] = []
    if config.csv:
        loggers.append(CsvLogger(run.folder, at))
    if config.tensorboard and (name := missing("tensorboard")) is not None:
        if is_rank_zero():
            print(f"No TensorBoard: {name} is not installed ({installing('tensorboard')}).", flush=True)
    elif config.tensorboard:
        loggers.append(SafeTensorBoardLogger(run.folder, at))
    if config.wandb is not None:
        # The decision is rank zero's alone: the others send nothing.
        decision = _decide(config.wandb) if is_rank_zero() else Decision("offline", "not rank zero")
        if decision.mode != "disabled":
            loggers.append(SafeWandbLogger(config.wandb, run, decision.mode, at, more))
    for logger in loggers:
        logger.log_hyperparams(scrub(hyperparameters))
    return loggers


def check_installed(config: LoggingConfig) -> None:
    """Refuse loggers whose packages are not installed. TensorBoard, which is on by default, is then left out instead.

    Raises:
        UserError: naming the extra that is missing.
    """
    if config.wandb is not None and config.wandb.mode != "disabled":
        require("wandb", "logging.wandb")


def keep_completions(loggers: Sequence[Logger], file: Path) -> None:
    """Have W&B show what was written after held-out prompts as a table, where the run has such a file."""
    for logger in loggers:
        if isinstance(logger, SafeWandbLogger) and file.is_file():
            logger.log_completions(file)


def keep_student(loggers: Sequence[Logger], run: Run) -> None:
    """Keep the saved student as an artifact, where that is asked for."""
    for logger in loggers:
        if isinstance(logger, SafeWandbLogger):
            logger.log_artifact("student", run.student)


def keep_export(config: LoggingConfig, run: Run, folder: Path) -> None:
    """Keep an exported folder of a finished run as an artifact, where that is asked for."""
    if config.wandb is not None and "exports" in config.wandb.artifacts:
        log_export(config.wandb, run, folder, _decide(config.wandb).mode)


def _decide(config: WandbConfig) -> Decision:
    decision = decide(config.mode)
    print(f"W&B is {decision.mode}: {decision.reason}.", flush=True)
    return decision
