"""Loggers of a run: a CSV file, TensorBoard and W&B, all inside the run's folder."""

from __future__ import annotations

import csv
import logging
import os
import threading
import warnings
from argparse import Namespace
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

from lightning_fabric.utilities.rank_zero import rank_zero_only
from pytorch_lightning.loggers import Logger, TensorBoardLogger, WandbLogger

from distill.run import Run
from distill.scrub import scrub
from distill.wandb_mode import Decision, decide

__all__ = ["CsvLogger", "LoggingConfig", "SafeWandbLogger", "WandbConfig", "is_rank_zero", "make_loggers"]

FINISH_SECONDS = 60.0
"""How long a run that has ended waits for W&B to send what it has; the rest stays on the disk for ``wandb sync``."""

# What is not asked of the server is not sent: the command line and the environment may hold secrets.
_WANDB_SETTINGS: dict[str, Any] = {
    "console": "off",
    "disable_git": True,
    "save_code": False,
    "silent": True,
    "init_timeout": 20,
    "finish_timeout": FINISH_SECONDS - 5,
    "finish_timeout_raises": True,
    "x_disable_meta": True,
    "x_save_requirements": False,
}


@dataclass(frozen=True, kw_only=True)
class WandbConfig:
    """Where W&B puts the run.

    Attributes:
        project: Name of the project.
        entity: User or team; the key's own if not given.
        group: Runs that belong together, such as the seeds of one recipe.
        tags: Any words.
        mode: ``online``, ``offline`` or ``disabled``; if not given ``WANDB_MODE``, else online where a key and
            a server are there.
    """

    project: str = "distill"
    entity: str | None = None
    group: str | None = None
    tags: list[str] = field(default_factory=list)
    mode: Literal["online", "offline", "disabled"] | None = None


@dataclass(frozen=True, kw_only=True)
class LoggingConfig:
    """Which loggers a run has.

    Attributes:
        csv: ``metrics.csv`` in the run's folder.
        tensorboard: Event files in its folder ``tensorboard``.
        wandb: W&B, with its files in the folder ``wandb``; none if not given.
    """

    csv: bool = True
    tensorboard: bool = True
    wandb: WandbConfig | None = None


def is_rank_zero() -> bool:
    """Whether this is the process that writes and prints; from the environment until a Trainer says more."""
    return getattr(rank_zero_only, "rank", 0) == 0


def make_loggers(config: LoggingConfig, run: Run, hyperparameters: Mapping[str, Any]) -> list[Logger]:
    """The loggers of ``run``, started on rank zero, with ``hyperparameters`` (scrubbed of secrets) logged."""
    loggers: list[Logger] = []
    if config.csv:
        loggers.append(CsvLogger(run.folder))
    if config.tensorboard:
        loggers.append(TensorBoardLogger(run.folder, name="tensorboard", version="", default_hp_metric=False))
    if config.wandb is not None:
        # The decision is rank zero's alone: the others send nothing.
        decision = decide(config.wandb.mode) if is_rank_zero() else Decision("offline", "not rank zero")
        if is_rank_zero():
            print(f"W&B is {decision.mode}: {decision.reason}.", flush=True)
        if decision.mode != "disabled":
            loggers.append(SafeWandbLogger(config.wandb, run, decision.mode))
    for logger in loggers:
        logger.log_hyperparams(scrub(hyperparameters))
    return loggers


class CsvLogger(Logger):
    """Appends to ``metrics.csv``; Lightning's own empties the file of an existing folder.

    Its column ``step`` counts the optimizer steps done, as the console and the checkpoints' names do. Lightning
    gives its loggers the number of the step, from 0: that is ``trainer/global_step`` in TensorBoard and W&B.

    Args:
        folder: The run's folder.
        rows: Rows kept in memory before they are written.
    """

    def __init__(self, folder: str | Path, rows: int = 20) -> None:
        super().__init__()
        self.path, self.rows = Path(folder) / "metrics.csv", rows
        self._waiting: list[dict[str, Any]] = []
        self._columns: list[str] = []

    @property
    def name(self) -> str:
        return "csv"

    @property
    def version(self) -> str:
        return ""

    @property
    def save_dir(self) -> str:
        return str(self.path.parent)

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Nothing: the run's ``config.yaml`` holds them."""

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        done = None if step is None else step + 1
        self._waiting.append({"step": done, **{k: float(v) for k, v in metrics.items()}})
        if len(self._waiting) >= self.rows:
            self.save()

    @rank_zero_only
    def save(self) -> None:
        """Write what waits; a new column rewrites the file with it."""
        if not self._waiting:
            return
        old: list[dict[str, Any]] = []
        if not self._columns and self.path.is_file():
            self._columns = _header(self.path)
        new = [name for row in self._waiting for name in row if name not in self._columns]
        if new:
            if self.path.is_file():
                with self.path.open(newline="", encoding="utf-8") as file:
                    old = list(csv.DictReader(file))
            self._columns += dict.fromkeys(new)
        fresh = self.path.with_name(".metrics.csv.new") if new else self.path
        with fresh.open("w" if new else "a", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, self._columns, lineterminator="\n")
            if new:
                writer.writeheader()
            writer.writerows([*old, *self._waiting])
        if new:
            os.replace(fresh, self.path)
        self._waiting = []

    @rank_zero_only
    def finalize(self, status: str) -> None:
        self.save()


def _header(path: Path) -> list[str]:
    with path.open(newline="", encoding="utf-8") as file:
        return next(csv.reader(file), [])


class SafeWandbLogger(WandbLogger):
    """W&B under the run's own id, inside its folder, plotted over ``trainer/global_step``; it never stops the run.

    Args:
        config: Where W&B puts the run.
        run: The run.
        mode: ``online`` or ``offline``, as :func:`distill.wandb_mode.decide` found.
    """

    def __init__(self, config: WandbConfig, run: Run, mode: str) -> None:
        import wandb

        logging.getLogger("wandb").setLevel(logging.ERROR)
        super().__init__(
            name=f"{run.name} {run.id}",
            save_dir=run.folder,
            id=run.id,
            project=config.project,
            entity=config.entity,
            group=config.group,
            tags=config.tags or None,
            # Not `offline=True`: that sets WANDB_MODE for the whole process and everything it starts.
            mode=mode,
            settings=wandb.Settings(**_WANDB_SETTINGS),
        )
        self._wandb_init.pop("anonymous")  # W&B warns wherever it is set
        self._failed = False
        self._try("start", lambda: super(SafeWandbLogger, self).experiment)

    def _try(self, what: str, action: Any) -> None:
        if self._failed or not is_rank_zero():
            return
        try:
            action()
        except Exception as error:  # CommError, UsageError, a broken pipe to its service: all end the logger only
            self._failed = True
            warnings.warn(f"W&B is left out from here on: it could not {what} ({error!r}).", stacklevel=2)

    @property
    def experiment(self) -> Any:
        if self._failed:
            from lightning_fabric.loggers.logger import _DummyExperiment

            return _DummyExperiment()
        return super().experiment

    def log_hyperparams(self, params: Any) -> None:
        self._try("take the hyperparameters", lambda: super(SafeWandbLogger, self).log_hyperparams(params))

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        self._try("log", lambda: super(SafeWandbLogger, self).log_metrics(metrics, step))

    def after_save_checkpoint(self, checkpoint_callback: Any) -> None:
        """Nothing: checkpoints stay in the run's folder."""

    def finalize(self, status: str) -> None:
        """End the run, so that its file is complete when the command ends; wait :data:`FINISH_SECONDS` at most."""
        if self._experiment is not None:
            finish = partial(self._experiment.finish, exit_code=0 if status == "success" else 1)
            # W&B gives up by itself before that, unless its service process has ceased to answer.
            self._try("finish", lambda: _within(FINISH_SECONDS, finish))
            self._experiment, self._failed = None, True


def _within(seconds: float, action: Callable[[], object]) -> None:
    """Do ``action``, but do not wait for it any longer than ``seconds``.

    Raises:
        TimeoutError: if it has not come to an end by then.
        Exception: whatever ``action`` raises.
    """
    raised: list[Exception] = []

    def act() -> None:
        try:
            action()
        except Exception as error:
            raised.append(error)

    thread = threading.Thread(target=act, daemon=True)  # a process that ends does not wait for it
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        raise TimeoutError(f"no end within {seconds:g} s; `wandb sync` sends what is on the disk")
    if raised:
        raise raised[0]
