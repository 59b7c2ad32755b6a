"""Running a configuration: build, make the run's folder, train, save the student, and say what came out."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from lightning_fabric.utilities.exceptions import MisconfigurationException
from pytorch_lightning import Trainer
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.trainer.states import TrainerStatus
from pytorch_lightning.utilities.exceptions import SIGTERMException

from distill import artifact
from distill.build import RUN_ID, Job, build, make_trainer, quiet
from distill.config import apply_override, parse_value
from distill.errors import UserError
from distill.loggers import make_loggers
from distill.outcome import Scores, outcome, show_outcome, show_scores
from distill.run import Run

__all__ = ["evaluate", "fit"]

SIGTERM_CODE = 128 + int(signal.SIGTERM)


def fit(config: Mapping[str, Any], *, allow: Sequence[str] = (), run_id: str | None = None) -> Run:
    """Train what ``config`` describes and save the student.

    Args:
        config: As :func:`distill.config.load` gives it.
        allow: Packages whose classes it may name, besides our own.
        run_id: The run's id; a new one if not given.

    Returns:
        The run, whose :attr:`~distill.run.Run.result` holds the figures.

    Raises:
        UserError: for whatever is wrong with the configuration. Nothing was written.
        TrainingError: if the loss stops being finite. The run's folder stays, with its last checkpoint.
    """
    job = build(config, allow=allow, run_id=run_id)
    with quiet():
        trainer = make_trainer(job)
    main = trainer.is_global_zero
    if main:
        job.run.begin(job.config)
    try:
        trainer.loggers = make_loggers(job.logging, job.run, job.config)
        started = time.perf_counter()
        with _share(job.run), quiet(), _interruptible(trainer):
            trainer.fit(job.module, datamodule=job.data)
        seconds = time.perf_counter() - started
    except UserError:
        if main:
            job.run.discard()
        raise
    except MisconfigurationException as error:
        if main:
            job.run.discard()
        raise UserError(str(error).splitlines()[0], key="trainer", mend="check its arguments") from error
    if main:
        _conclude(job, trainer, seconds)
    return job.run


@contextmanager
def _share(run: Run) -> Iterator[None]:
    """Tell the processes that Lightning starts for the other devices which run they belong to."""
    before = os.environ.get(RUN_ID)
    os.environ[RUN_ID] = run.id
    try:
        yield
    finally:
        os.environ.pop(RUN_ID) if before is None else os.environ.update({RUN_ID: before})


@contextmanager
def _interruptible(trainer: Trainer) -> Iterator[None]:
    """Let an interrupt be one to the caller too: Lightning ends with code 1 on Ctrl-C and with 0 on SIGTERM."""
    before = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SIGTERMException:
        raise SystemExit(SIGTERM_CODE) from None
    except SystemExit:
        if trainer.state.status == TrainerStatus.INTERRUPTED:
            raise KeyboardInterrupt from None
        raise
    finally:
        if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
            signal.signal(signal.SIGINT, before)


def _conclude(job: Job, trainer: Trainer, seconds: float) -> None:
    """Save the student of the best checkpoint and show the table."""
    steps = trainer.global_step
    step = _restore_best(job, trainer)
    artifact.save(job.run.student, job.module.student, getattr(job.data, "tokenizer", None))
    kept = next(callback.by_step for callback in trainer.callbacks if isinstance(callback, Scores))  # type: ignore[attr-defined]
    last = kept[max(kept)] if kept else {}
    result = outcome(
        job.module,
        kept.get(step, last),
        name=job.run.name,
        id=job.run.id,
        steps=steps,
        saved_step=step,
        train_seconds=round(seconds, 3),
    )
    job.run.write_result(result)
    show_outcome(result)
    which = f"the best of {steps} by {job.module.task.monitor}" if step != steps else "the last"
    print(f"student of step {step} ({which}): {job.run.student}")


def _restore_best(job: Job, trainer: Trainer) -> int:
    """Give the student the weights of the best checkpoint; the step they are of."""
    for callback in trainer.checkpoint_callbacks:
        if isinstance(callback, ModelCheckpoint) and callback.monitor and callback.best_model_path:
            saved = torch.load(callback.best_model_path, map_location="cpu", weights_only=True)
            if saved["global_step"] != trainer.global_step:
                job.module.load_state_dict(saved["state_dict"])
            return int(saved["global_step"])
    return trainer.global_step


# ---------------------------------------------------------------------- afterwards


def evaluate(
    folder: str | Path,
    split: str = "validate",
    *,
    overrides: Sequence[tuple[str, str]] = (),
    allow: Sequence[str] = (),
) -> dict[str, float]:
    """The figures of a run's saved student, and its teacher's, on validation or test data.

    Args:
        folder: The run.
        split: ``validate`` or ``test``.
        overrides: Keys and YAML texts that replace parts of the run's configuration.
        allow: Packages whose classes it may name, besides our own.

    Raises:
        UserError: if there is no such run, it has no student, or its data cannot be read.
    """
    run = Run.open(folder)
    if not run.student.is_dir():
        rule = "this run has saved no student yet"
        raise UserError(rule, key="RUN", value=str(folder), mend="let it finish")
    config = run.config
    described = _take_student(config, run)
    for key, text in overrides:
        apply_override(config, key, parse_value(text, f"--{key}"))
    job = build(config, allow=allow, stage=split)
    if not described:
        artifact.load(run.student, job.module.student)
    with quiet():
        trainer = make_trainer(job, enable_checkpointing=False, callbacks=[])
    with quiet(), _interruptible(trainer):
        try:
            run_split = trainer.validate if split == "validate" else trainer.test
            [scores] = run_split(job.module, datamodule=job.data, verbose=False)
        except MisconfigurationException as error:
            rule = f"there is no data to {split}"
            raise UserError(rule, key="data", mend="name the split in data.splits") from error
    scores = {name: float(value) for name, value in scores.items()}
    if trainer.is_global_zero:
        show_scores(f"{run.name} {run.id}: {split}", scores)
    return scores


def _take_student(config: dict[str, Any], run: Run) -> bool:
    """Have the configuration load the saved student, where it describes one in words."""
    student = config["model"]["student"]
    if isinstance(student, dict) and "class_path" in student:
        return False
    attention = student.get("attn_implementation") if isinstance(student, dict) else None
    config["model"]["student"] = {"path": str(run.student)} | (
        {"attn_implementation": attention} if attention is not None else {}
    )
    return True
