"""Training what a configuration describes: build, make the run's folder, train, save the student, show the table."""

from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from lightning_fabric.utilities.exceptions import MisconfigurationException
from pytorch_lightning import Trainer
from pytorch_lightning.trainer.states import TrainerStatus
from pytorch_lightning.utilities.exceptions import SIGTERMException

from distill import artifact
from distill.build import RUN_ID, Job, build, make_trainer, quiet
from distill.callbacks import Best, ExponentialMovingAverage, compressions
from distill.errors import UserError
from distill.loggers import make_loggers
from distill.outcome import Scores, outcome, show_outcome
from distill.run import Run
from distill.timeline import DrawTimeline

__all__ = ["fit", "interruptible"]

_log = logging.getLogger(__name__)

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
        trainer.callbacks.insert(0, DrawTimeline(job.run.folder / "timeline.png"))  # type: ignore[attr-defined]
        started = time.perf_counter()
        with _share(job.run), quiet(), interruptible(trainer):
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
def interruptible(trainer: Trainer) -> Iterator[None]:
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
    """Save the student of the best checkpoint as it is shipped, and show the table."""
    steps = trainer.global_step
    step, states = _restore_best(job, trainer)
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, ExponentialMovingAverage):
            if callback.state_key in states:
                callback.load_state_dict(states[callback.state_key])
            callback.finish(job.module.student)
    kept = next(callback.by_step for callback in trainer.callbacks if isinstance(callback, Scores))  # type: ignore[attr-defined]
    changed = compressions(trainer)
    unfinished = [type(c).__name__ for c in changed if not c.complete(step, job.module.total_steps)]
    artifact.recount(job.module.student)
    for compression in changed:
        artifact.note(job.module.student, *compression.finish(job.module.student))
    scores = kept.get(step, {})
    if trainer.enable_validation and (changed or step not in kept):
        scores = _validated(job, trainer)  # what is shipped is what is judged
    if not trainer.is_global_zero:
        return
    artifact.save(job.run.student, job.module.student, getattr(job.data, "tokenizer", None))
    result = outcome(
        job.module,
        scores,
        name=job.run.name,
        id=job.run.id,
        steps=steps,
        saved_step=step,
        complete=not unfinished,
        train_seconds=round(seconds, 3),
    )
    job.run.write_result(result)
    show_outcome(result)
    which = f"the best of {steps} by {job.module.task.monitor}" if step != steps else "the last"
    print(f"student of step {step} ({which}): {job.run.student}")
    if unfinished:
        _log.warning(
            "the run ended at step %d of %d, before %s had done what was asked for: the student is larger than that",
            steps,
            job.module.total_steps,
            " and ".join(unfinished),
        )


def _restore_best(job: Job, trainer: Trainer) -> tuple[int, dict[str, Any]]:
    """Give the student the weights of the best checkpoint; its step and its callbacks' states."""
    for callback in trainer.checkpoint_callbacks:
        if isinstance(callback, Best) and callback.best_model_path:
            saved = torch.load(callback.best_model_path, map_location="cpu", weights_only=True)
            if saved["global_step"] != trainer.global_step:
                job.module.load_state_dict(saved["state_dict"])
                return int(saved["global_step"]), saved["callbacks"]
            break
    return trainer.global_step, {}


def _validated(job: Job, trainer: Trainer) -> dict[str, float]:
    """The validation figures of the student as it now is."""
    trainer.loggers = []  # the history ends with the training
    with quiet():
        [scores] = trainer.validate(job.module, datamodule=job.data, verbose=False)
    return {name.removeprefix("val/"): float(value) for name, value in scores.items() if name.startswith("val/")}
