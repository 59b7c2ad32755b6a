"""Training what a configuration describes: build, make the run's folder, train, save the student, show the table."""

from __future__ import annotations

import errno
import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.trainer.states import TrainerStatus
from pytorch_lightning.utilities.exceptions import SIGTERMException
from safetensors import SafetensorError

from distill.core.utils.errors import TrainingError, UserError
from distill.core.utils.quiet import quiet_lightning
from distill.core.utils.secrets import scrub
from distill.run.baseline import check_baseline
from distill.run.checkpoints.names import resume_checkpoints
from distill.run.folder import Run
from distill.run.loggers.make import keep_completions, keep_student, make_loggers
from distill.run.samples import samples_of
from distill.training.module import Distillation
from distill.training.processes import meeting, none_left, shared_id
from distill.workflows.completions import COMPLETIONS
from distill.workflows.ending import end_run
from distill.workflows.job.build import Job, build, last_of, make_trainer
from distill.workflows.job.lightning_refusals import explained
from distill.workflows.opening import opening
from distill.workflows.teacher_check import CHECK, TeacherCheck
from distill.workflows.timeline import DrawTimeline

__all__ = ["fit", "interruptible", "train"]

_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO)

SIGTERM_CODE = 128 + int(signal.SIGTERM)


def fit(
    config: Mapping[str, Any],
    *,
    allow: Sequence[str] = (),
    run_id: str | None = None,
    beside: str | Path | None = None,
    recipe: str = "",
) -> Run:
    """Train what ``config`` describes and save the student.

    Args:
        config: As :func:`distill.config.files.load` gives it.
        allow: Packages whose classes it may name, besides our own.
        run_id: The run's id; a new one if not given.
        beside: A run of the same student without a teacher, to show its scores too; looked for if not given.
        recipe: What ``config`` came from, in words, for the model card.

    Returns:
        The run, whose :attr:`~distill.run.folder.Run.result` holds the metrics.

    Raises:
        UserError: for whatever is wrong with the configuration. Nothing was written.
        TrainingError: if the loss stops being finite. The run's folder stays, with its last checkpoint.
    """
    job = build(config, allow=allow, run_id=run_id)
    job.recipe = recipe
    if beside is not None:
        job.beside = check_baseline(beside, job.config, samples_of(job.data, ["validation"]))
    with quiet_lightning():
        trainer = make_trainer(job)
    with ExitStack() as stack:
        if trainer.is_global_zero:
            job.run.begin(job.config, _given(job))
        try:
            if trainer.is_global_zero:
                stack.enter_context(job.run.locked())
            train(job, trainer)
        except UserError:
            if trainer.is_global_zero:
                job.run.discard()
            raise
    return job.run


def _given(job: Job) -> dict[str, str]:
    """What the command said that the configuration does not hold; a run that is resumed has it from its plan."""
    beside = {} if job.beside is None else {"beside": str(job.beside.absolute())}
    return beside | ({"recipe": job.recipe} if job.recipe else {})


def train(job: Job, trainer: Trainer, *, at: int | None = None, checkpoint: Path | None = None) -> None:
    """Train, and save what comes of it.

    Args:
        job: Built; its run's folder is there, and is this process's alone.
        trainer: Its own.
        at: The optimizer steps that had been done before; nothing for a new run.
        checkpoint: What it resumes from; the start if not given.
    """
    more = job.module.completions is not None and job.module.completions.shown > 0
    trainer.loggers = loggers = make_loggers(job.logging, job.run, job.config, at=at, more=more)
    check = None if at is not None else TeacherCheck()
    first = [*([] if check is None else [check]), _WritePlan(job, check)]
    picture = DrawTimeline(job.run.folder / "timeline.png")
    trainer.callbacks[:0] = [*first, picture]  # type: ignore[attr-defined]
    started = time.perf_counter()
    _fit(job, trainer, at or 0, checkpoint)
    _end(job, trainer, time.perf_counter() - started)
    if trainer.is_global_zero:
        picture.draw(trainer)
        keep_completions(loggers, job.run.folder / COMPLETIONS)
        keep_student(loggers, job.run)


def _fit(job: Job, trainer: Trainer, at: int, checkpoint: Path | None) -> None:
    """Train; of what fails, the folder says why, but where nothing was begun."""
    explaining = explained(trainer, job.callbacks, job.config["trainer"])
    try:
        with (
            shared_id(job.run.id),
            quiet_lightning(),
            _resumable(job, trainer),
            interruptible(trainer),
            none_left(trainer),
            explaining,
            meeting(trainer),
        ):
            trainer.fit(job.module, datamodule=job.data, ckpt_path=checkpoint, weights_only=True)
    except Exception as error:
        if isinstance(error, OSError) and error.errno in _DISK:
            raise _unwritten(error, job.run) from error
        if trainer.global_step > at or not isinstance(error, UserError):
            _write_failure(job, trainer, error)
        raise
    finally:
        if (last := last_of(trainer.callbacks)) is not None:  # type: ignore[attr-defined]
            last.release()


def _end(job: Job, trainer: Trainer, seconds: float) -> None:
    """Save what was trained; of what fails, the folder says why, and stays.

    Args:
        job: The run's.
        trainer: Its own, whose fit has ended.
        seconds: That it took, should no callback have counted those of the run.
    """
    last = last_of(trainer.callbacks)  # type: ignore[attr-defined]
    try:
        with _resumable(job, trainer), interruptible(trainer), none_left(trainer):
            end_run(job, trainer, last.seconds if last else seconds)
    except Exception as error:
        trouble = error.__cause__ if isinstance(error, UserError) else error  # of a folder that cannot be made
        if isinstance(trouble, SafetensorError) or (isinstance(trouble, OSError) and trouble.errno in _DISK):
            raise _unwritten(trouble, job.run) from error
        _write_failure(job, trainer, error)
        if isinstance(error, UserError):  # nothing of what was trained is taken back
            raise TrainingError(str(error)) from error
        raise


def _write_failure(job: Job, trainer: Trainer, error: Exception) -> None:
    if trainer.is_global_zero:
        job.run.write_failure(scrub(str(error) or type(error).__name__))


@contextmanager
def _resumable(job: Job, trainer: Trainer) -> Iterator[None]:
    """Say how the run goes on, should somebody stop it."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit):
        if trainer.is_global_zero:
            print(job.run.to_resume, file=sys.stderr)
        raise


def _unwritten(error: Exception, run: Run) -> TrainingError:
    """Of a disk that is full, or that may not be written to."""
    reason = getattr(error, "strerror", None) or str(error)
    kept = "its last good checkpoint is kept" if resume_checkpoints(run.checkpoints) else "it has no checkpoint yet"
    hint = f"{kept}: make room, or have it writable, and resume with: distill resume {run.shown}"
    return TrainingError(f"{run.shown} cannot be written to ({reason}). {hint}")


class _WritePlan(Callback):
    """Writes down what the run is about to do, and says what a new one has understood.

    Args:
        job: The run.
        check: What its teacher scores; of a resumed one nothing is said.
    """

    def __init__(self, job: Job, check: TeacherCheck | None) -> None:
        self.job, self.check = job, check

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, Distillation)
        if not trainer.is_global_zero:
            return
        run, task = self.job.run, pl_module.task
        if self.check is None:
            # Not before: until here it may be refused, and stays as it is.
            run.extend(self.job.config)
        else:
            print("\n".join([f"run {run.shown}", *opening(self.job, trainer, self.check)]), flush=True)
        plan = {"id": run.id, "monitor": task.monitor, "mode": task.mode, "total_steps": pl_module.total_steps}
        found = run.planned(CHECK) if self.check is None else self.check.found
        run.write_plan(plan | _given(self.job) | ({CHECK: found} if found else {}))


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
