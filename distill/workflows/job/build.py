"""Building all that a configuration describes, so that every mistake shows before anything is written."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from lightning_fabric.plugins.environments.slurm import SLURMEnvironment
from lightning_fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from pytorch_lightning import Callback, LightningDataModule, Trainer, seed_everything
from pytorch_lightning.callbacks import Checkpoint, ModelCheckpoint, ProgressBar
from pytorch_lightning.utilities.model_helpers import is_overridden

from distill.callbacks import BestCheckpoint, Determinism, ResumeCheckpoint
from distill.callbacks.progress_lines import ProgressLines
from distill.callbacks.scores import LastValidation, Scores
from distill.compression.base import refuse_twice
from distill.config.class_paths import check, check_classes, only_allowed_imports
from distill.config.files import dump
from distill.config.local_paths import absolute_paths
from distill.config.yaml import refuse_boundless
from distill.core.internals.lightning import DescribedBar, judge_after_validation
from distill.core.ranks import is_rank_zero
from distill.core.utils.errors import UserError
from distill.core.utils.quiet import quiet_lightning
from distill.core.utils.secrets import mask, scrub
from distill.data import TextData
from distill.losses import DistillationLoss
from distill.models.students.build import refuse_quantized
from distill.run.boundary import refuse_paths
from distill.run.checkpoints.file import SafeCheckpointIO
from distill.run.folder import Run
from distill.run.loggers.config import LoggingConfig
from distill.run.loggers.make import check_installed
from distill.run.loggers.wandb_mode import sweep_run_id
from distill.training.module import Distillation
from distill.training.on_policy import refuse_sharded
from distill.training.processes import RUN_ID, check_count
from distill.training.sharding import NAME, Sharded, check_modules
from distill.workflows.job.checks import check_save_dtype, check_sharding, high_rate, idle_settings, refuse_hidden
from distill.workflows.job.choosing import FILES, choose_by, choosing, compared
from distill.workflows.job.defaults import classifier_of, origin, with_defaults
from distill.workflows.job.length import settle_length
from distill.workflows.job.lightning_limits import (
    check_callbacks,
    check_monitors,
    check_plugins,
    check_trainer,
)
from distill.workflows.job.lightning_refusals import refusal
from distill.workflows.job.sections import Sections, located

__all__ = ["Job", "build", "judge", "last_of", "make_trainer", "resolve"]

_log = logging.getLogger(__name__)


@dataclass
class Job:
    """A run with everything built and nothing written.

    Attributes:
        config: The resolved configuration.
        run: The run; the folder of a new one is not there yet.
        data: Read and ready.
        module: With teacher, student and losses.
        callbacks: Those of the configuration.
        arguments: Of the Trainer, as configured.
        logging: Which loggers the run gets.
        beside: The run without a teacher that it is compared with, where one was named.
        recipe: The files that its configuration came from, in words; empty where that is not known.
        extends: Whether it trains on past the end that the run had.
        changed: What of the data is not as it was when the run was trained, in words; of a run that is opened again.
    """

    config: dict[str, Any]
    run: Run
    data: LightningDataModule
    module: Distillation
    callbacks: list[Callback]
    arguments: dict[str, Any]
    logging: LoggingConfig
    beside: Path | None = None
    recipe: str = ""
    extends: bool = False
    changed: Sequence[str] = ()


def build(
    config: Mapping[str, Any],
    *,
    allow: Sequence[str] = (),
    run_id: str | None = None,
    run: Run | None = None,
    stage: str = "fit",
) -> Job:
    """Build all that ``config`` describes.

    Args:
        config: As :func:`distill.config.files.load` gives it.
        allow: Packages whose classes the configuration may name, besides our own.
        run_id: The run's id; a new one if not given.
        run: The run, where it is there already and is resumed.
        stage: What the data is read for: ``fit``, ``validate`` or ``test``.

    Raises:
        UserError: for whatever is wrong with it. Nothing was written.
    """
    with only_allowed_imports(allow), quiet_lightning():
        sections = _parsed(config, allow)
        check_trainer(sections.config["trainer"])
        check_count(sections.config["trainer"].get("devices"), "trainer.devices")
        check_count((sections.config["data"].get("init_args") or {}).get("num_workers"), "data.num_workers")
        seed = sections.config["seed"]
        if run is None:
            run = _plan(sections.config, run_id) if stage == "fit" else Run(Path())
        refuse_paths(sections.config, run.folder, allow)
        # What costs nothing to build comes first, so that its mistakes do not wait for data and models.
        made = {"logging": sections.make("logging"), "callbacks": sections.make("callbacks")}
        check_callbacks(made["callbacks"])
        if stage == "fit":
            _warn(sections.config, config.get("trainer") or {}, made["callbacks"], made["logging"])
            check_installed(made["logging"])
        check_sharding(sections.config["trainer"], made["callbacks"])
        losses = sections.losses()
        sections.check_model()
        if stage == "fit":
            sections.check_outline(losses or [], made["callbacks"])
        arguments = {k: v for k, v in sections.make("trainer").items() if k in sections.config["trainer"]}
        check_plugins(arguments)
        try:
            data = _read(sections, stage, losses or [])
        except UserError as error:
            raise origin(located(error, "data", sections.config["data"]), config, sections.config) from error
        # The student's fresh weights are a function of the seed, whatever reading the data drew.
        seed_everything(seed, workers=True, verbose=False)
        module = sections.model(losses, getattr(data, "labels", None))
        if sections.config["trainer"].get("strategy") == NAME:
            check_modules(module.student, losses or [])
            refuse_sharded(module.on_policy)
        if module.on_policy is not None:
            module.on_policy.seed = seed
        if stage == "fit":
            _check_training(module, sections.config["model"]["student"], made["callbacks"])
            validates = _validates(arguments, data)
            if validates:
                choose_by(module.task, made["callbacks"], compared(module, data, made["callbacks"]))
            check_monitors(made["callbacks"], module.metric_names(validates))
        try:
            module.meet(data)
        except UserError as error:
            raise origin(error, config, sections.config) from error
        return Job(absolute_paths(sections.resolved(), Path.cwd()), run, data, module, arguments=arguments, **made)


def _warn(
    config: Mapping[str, Any], given: Mapping[str, Any], callbacks: Sequence[Callback], logs: LoggingConfig
) -> None:
    """Say which of the ``given`` arguments of the trainer do nothing, and that a learning rate is high."""
    on = logs.csv or logs.tensorboard or logs.wandb is not None
    named = {name: value for name, value in config["trainer"].items() if name in given}
    for line in [*idle_settings(named, callbacks, on), *high_rate(config["model"]["optimizer"])]:
        _log.warning("%s", line)


def _read(sections: Sections, stage: str, losses: Sequence[DistillationLoss]) -> LightningDataModule:
    """The data, read and ready, with the labels that the stage needs."""
    data: LightningDataModule = sections.make("data")
    if isinstance(data, TextData):
        data.outputs = partial(classifier_of, sections.config["model"])
    data.prepare_data()
    data.setup(stage)
    if isinstance(data, TextData) and not (stage == "fit" and any(map(_teaches_alone, losses))):
        data.require_labels({"fit": "train", "validate": "validation"}.get(stage, stage))
    return data


def _check_training(module: Distillation, student: Any, callbacks: Sequence[Callback]) -> None:
    """Refuse a ``student``, as configured, that cannot be trained, or not saved as it is to be."""
    check_save_dtype(module.student_config, callbacks)
    refuse_quantized(module.student, student.get("path") if isinstance(student, Mapping) else student)


def _teaches_alone(loss: DistillationLoss) -> bool:
    """Whether a loss says anything of what a sample without a label should give."""
    return not (loss.reads_labels or loss.reads_weights)


def resolve(config: Mapping[str, Any], allow: Sequence[str] = ()) -> dict[str, Any]:
    """``config`` as a run made of it would keep it.

    Raises:
        UserError: as :func:`build`, for what needs neither data nor models.
    """
    with only_allowed_imports(allow), quiet_lightning():
        return absolute_paths(_parsed(config, allow).resolved(), Path.cwd())


def judge(config: Mapping[str, Any], allow: Sequence[str] = ()) -> None:
    """Refuse values that no run could have, as far as neither data nor models are needed to tell.

    Raises:
        UserError: as :func:`build`.
    """
    with only_allowed_imports(allow), quiet_lightning():
        sections = _parsed(config, allow)
        check_callbacks(sections.make("callbacks"))
        sections.losses()
        sections.check_model()


def _parsed(config: Mapping[str, Any], allow: Sequence[str]) -> Sections:
    refuse_hidden(config)
    mask(config)
    refuse_boundless(config)
    check(config, allow)
    check_classes(config)
    return Sections(with_defaults(config), allow)


def _plan(config: Mapping[str, Any], run_id: str | None) -> Run:
    """The run's folder; on ranks other than zero the one that rank zero makes."""
    given = sweep_run_id()
    if given is not None and run_id not in (None, given):
        problem = f"a run of a W&B sweep has the id that its agent gave it, {given}"
        raise UserError(problem, key="--id", value=run_id, hint="leave it out")
    run_id = run_id or given or os.environ.get(RUN_ID)
    if is_rank_zero():
        return Run.plan(config["runs"], config["name"], run_id)
    if run_id is None:
        problem = "is needed where the processes are started by hand, as they share one folder"
        raise UserError(problem, key="--id", hint="give all of them the same --id")
    return Run(Path(config["runs"]) / config["name"] / run_id)


# ---------------------------------------------------------------------- the trainer


def make_trainer(job: Job, **override: Any) -> Trainer:
    """The Trainer of ``job``, without loggers, which would write.

    Args:
        job: The run.
        override: Arguments in place of the configured ones.

    Raises:
        UserError: if Lightning refuses its arguments.
    """
    given = {**job.arguments, **override}
    sharded = given.get("strategy") == NAME
    if sharded:  # outside inference mode: what a pass gathers there could not be trained on
        given |= {"strategy": Sharded(), "inference_mode": False}
    callbacks = list(given.pop("callbacks", job.callbacks))
    named = any(isinstance(callback, ProgressBar) and not isinstance(callback, ProgressLines) for callback in callbacks)
    bar = given.pop("enable_progress_bar", None)
    bar = named or sys.stdout.isatty() if bar is None else bar
    refuse_twice(callbacks)
    checkpoints = given.pop("enable_checkpointing", None) is not False
    own: list[Callback] = [LastValidation(), Scores(spoken=not bar)]
    if not any(isinstance(callback, Determinism) for callback in callbacks):
        own.append(Determinism(job.config["seed"]))
    if not named:
        own.append(Bar(leave=True) if bar else ProgressLines())
    if not checkpoints and last_of(callbacks) is not None:
        problem = "contradicts the callback ResumeCheckpoint, which saves checkpoints"
        raise UserError(problem, key="trainer.enable_checkpointing", value=False, hint="leave one of them out")
    if checkpoints:
        given["plugins"] = [*_listed(given.get("plugins")), *([] if sharded else [SafeCheckpointIO()])]
        # Its own way of requeueing saves in the middle of a step. Within a job's step torchrun knows the ranks.
        if SLURMEnvironment.detect() and not TorchElasticEnvironment.detect():
            given["plugins"].append(SLURMEnvironment(auto_requeue=False))
        callbacks = _checkpoint(job, callbacks, given)
    every = given.get("val_check_interval")
    if type(every) is int and every == 1 and _validates(given, job.data):
        judge_after_validation(callbacks)
    try:
        trainer = Trainer(
            **given,
            callbacks=[*callbacks, *own],
            logger=False,
            default_root_dir=job.run.folder,
            enable_progress_bar=bar,
            # Without one of these Lightning would add its own.
            enable_checkpointing=any(isinstance(callback, Checkpoint) for callback in callbacks),
            enable_model_summary=False,
            use_distributed_sampler=False,  # the data's batches know the ranks
        )
    except UserError:
        raise
    except Exception as error:
        raise refusal(error, callbacks, job.config["trainer"]) from error
    settle_length(job.data, trainer, job.config["trainer"])
    if (last := last_of(trainer.callbacks)) is not None:  # type: ignore[attr-defined]
        last.of_run(job.run, dump(scrub(job.config)), extends=job.extends)
    return trainer


def last_of(callbacks: Iterable[Callback]) -> ResumeCheckpoint | None:
    """The one that saves what the run resumes from, if there is one."""
    return next((callback for callback in callbacks if isinstance(callback, ResumeCheckpoint)), None)


class Bar(DescribedBar):
    """Without ``/-2`` behind the epoch where only ``max_steps`` ends the run."""

    def describe(self, epoch: int, text: str) -> str:
        endless = (self.trainer.max_epochs or -1) < 0
        # Bars of one length do not flicker.
        return f"Epoch {epoch}".ljust(len(self.validation_description)) if endless else text


def _checkpoint(job: Job, callbacks: Sequence[Callback], arguments: Mapping[str, Any]) -> list[Callback]:
    """``callbacks``, with the one that saves the best checkpoint and the one that a run resumes from."""
    mine = [callback for callback in callbacks if isinstance(callback, ModelCheckpoint)]
    for callback in mine:
        callback.dirpath = callback.dirpath or str(job.run.checkpoints)
        if isinstance(callback, BestCheckpoint):
            callback.keeps_optimizer = False  # a run goes on from the newest
    last = last_of(callbacks) or ResumeCheckpoint()
    # First, so that it saves before the others begin with a batch.
    others: list[Callback] = [last, *(callback for callback in callbacks if callback is not last)]
    if not _validates(arguments, job.data) or choosing(callbacks) is not None:
        return others
    task = job.module.task
    best = BestCheckpoint(dirpath=job.run.checkpoints, monitor=f"val/{task.monitor}", mode=task.mode)
    best.call(FILES)
    best.keeps_optimizer = False
    return [*others, best]


def _validates(arguments: Mapping[str, Any], data: LightningDataModule) -> bool:
    return arguments.get("limit_val_batches") != 0 and is_overridden("val_dataloader", data)


def _listed(plugins: Any) -> list[Any]:
    return list(plugins) if isinstance(plugins, (list, tuple)) else [] if plugins is None else [plugins]
