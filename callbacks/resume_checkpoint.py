"""The checkpoints that a run resumes from."""

from __future__ import annotations

import logging
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.utilities.exceptions import SIGTERMException

from distill.callbacks.best_checkpoint import within
from distill.core.argument_types import refuse_types
from distill.core.internals.lightning import settle_loops
from distill.core.utils.errors import UserError
from distill.run.boundary import without_paths
from distill.run.checkpoints.file import SafeCheckpointIO, remove
from distill.run.checkpoints.names import resume_checkpoint, resume_checkpoints
from distill.run.conditions import conditions, other_conditions
from distill.run.folder import Run
from distill.run.interrupts import Interrupts
from distill.training.resume_state import other_versions, versions

__all__ = ["ResumeCheckpoint"]

_log = logging.getLogger(__name__)


class ResumeCheckpoint(Callback):
    """Saves all that the run needs to resume exactly: every so many minutes, after every epoch, at the end, and when
    a signal asks the run to stop.

    It saves where a batch is about to begin, and at the end of training: all that belongs to the step before,
    validation, schedulers, loggers and the hooks of the epoch's end included, is then done. Lightning saves
    between these steps, and what comes after is lost to a resumed run. Gradients are never half accumulated there. When
    it saves changes nothing in what is trained.

    On SIGTERM or SIGINT the step (or the validation) that is under way is finished and saved, and the run ends; if it
    was the last step, the run is concluded.

    Args:
        minutes: The longest time between two checkpoints.
        every_n_steps: Save after so many optimizer steps too.
        keep: So many of the newest are kept, 2 at least: should the newest be damaged, the one before is still there.

    Raises:
        UserError: if a value is out of range.
    """

    writes_files: ClassVar[bool] = True

    def __init__(self, minutes: float = 10.0, every_n_steps: int | None = None, keep: int = 2) -> None:
        refuse_types(ResumeCheckpoint, locals(), "callbacks.ResumeCheckpoint.")
        if not minutes > 0:
            problem = "must be greater than 0"
            raise UserError(problem, key="callbacks.ResumeCheckpoint.minutes", value=minutes, hint="10 is usual")
        for name, value, least in (("every_n_steps", every_n_steps, 1), ("keep", keep, 2)):
            if value is not None and value < least:
                problem = f"must be at least {least}"
                raise UserError(problem, key=f"callbacks.ResumeCheckpoint.{name}", value=value, hint="raise it")
        self.minutes, self.every_n_steps, self.keep = minutes, every_n_steps, keep
        self.folder: Path | None = None
        self.config = ""
        """The run's configuration, without secrets; in every checkpoint, so that a change of it is seen."""
        self.seconds = 0.0
        """Spent training, in all of the run's processes one after the other."""
        self.ended = False
        """Whether the training had come to its end, by its length or because a callback stopped it."""
        self.extends = False
        """Whether training continues all the same."""
        self._interrupts = Interrupts()
        self._step = 0
        self._saving = False
        self._since = 0.0

    def of_run(self, run: Run, config: str, *, extends: bool) -> None:
        """Save what ``run`` resumes from: in its folder, with its configuration. Without a run (in Python) nobody
        calls this.

        Args:
            run: That of the command.
            config: As :attr:`config`.
            extends: As :attr:`extends`.
        """
        self.folder, self.config, self.extends = run.checkpoints, config, extends
        self._interrupts.last_words = lambda: run.to_resume if resume_checkpoints(run.checkpoints) else ""

    # ------------------------------------------------------------------ when

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.folder = self.folder or Path(trainer.default_root_dir, "checkpoints")
        self._since = time.monotonic()
        trainer.should_stop = self.ended and not self.extends

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._step = trainer.global_step  # what it resumes from is saved already
        # Once more: of a sharded run Lightning restores the callbacks after the hook above.
        self.ended = self.ended and not self.extends
        trainer.should_stop = trainer.should_stop or self.ended
        self._interrupts.install()  # after Lightning's own, which would end the run in the middle of a step

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if batch_idx % trainer.accumulate_grad_batches:
            return
        step = trainer.global_step
        late = time.monotonic() - self._since > 60 * self.minutes
        writer = trainer.strategy.checkpoint_io
        writing = isinstance(writer, SafeCheckpointIO) and writer.writing
        asked, late, writing = _agreed(trainer, self._interrupts.received, late, writing)
        if isinstance(writer, SafeCheckpointIO) and writer.unsettled and not writing:
            writer.settle()
        often = self.every_n_steps is not None and step // self.every_n_steps > self._step // self.every_n_steps
        if step > self._step and (asked or late or often or batch_idx == 0):
            self.save(trainer)
        if asked:
            writer.teardown()  # it is on the disk before anything else is done
            raise SIGTERMException if asked == signal.SIGTERM else KeyboardInterrupt

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not self.ended or trainer.global_step > self._step:  # else nothing was trained: it is saved already
            self.ended = True
            self.save(trainer)
        self.release()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        if not self._interrupts.received:  # else a second signal still means at once, until the loggers are done
            self.release()

    def release(self) -> None:
        """Give the signals back to who had them."""
        self._interrupts.restore()

    # ------------------------------------------------------------------ what

    def save(self, trainer: Trainer) -> None:
        """Save the run as it is now, and remove what is older than the newest ``keep``."""
        for logger in trainer.loggers:
            logger.save()  # the history is never behind the checkpoint
        self.seconds += time.monotonic() - self._since
        self._since, self._step = time.monotonic(), trainer.global_step
        assert self.folder is not None
        self._saving = True
        try:
            trainer.save_checkpoint(resume_checkpoint(self.folder, self._step))
        finally:
            self._saving = False
        writer = trainer.strategy.checkpoint_io
        if trainer.is_global_zero and isinstance(writer, SafeCheckpointIO):
            writer.then(self._remove_old)

    def _remove_old(self) -> None:
        assert self.folder is not None
        for path in list(resume_checkpoints(self.folder).values())[self.keep :]:
            remove(path)

    def state_dict(self) -> dict[str, Any]:
        return {"seconds": self.seconds, "ended": self.ended}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        self.seconds, self.ended = state_dict["seconds"], state_dict["ended"]

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        # Not before: a run of several processes has its threads shared out as they start.
        others = [other_versions(checkpoint), other_conditions(checkpoint, trainer.strategy.root_device)]
        if any(others) and trainer.is_global_zero:
            _log.warning("%s: the bits may not be those of an undisturbed run", ", ".join(filter(None, others)))
        states = checkpoint["callbacks"] = {
            key: without_paths(state, Path(trainer.default_root_dir)) for key, state in checkpoint["callbacks"].items()
        }
        for callback in trainer.checkpoint_callbacks:  # of the user's own, too
            if isinstance(callback, ModelCheckpoint) and callback.state_key in states:
                states[callback.state_key] = within(states[callback.state_key], callback.dirpath)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        if self._saving:
            checkpoint["config"] = self.config
            checkpoint["strategy"] = type(trainer.strategy).__name__
            checkpoint["versions"] = versions()
            checkpoint["conditions"] = conditions(trainer.strategy.root_device)
            checkpoint["ranks"] = [trainer.world_size, getattr(trainer.datamodule, "batch_size", None)]  # type: ignore[attr-defined]
            settle_loops(trainer, checkpoint)


def _agreed(trainer: Trainer, asked: int, late: bool, writing: bool) -> tuple[int, bool, bool]:
    """What any rank says, on all of them: they must save together, and a signal may reach one alone."""
    if trainer.world_size == 1:
        return asked, late, writing
    # Lightning waits for the device here too, at every batch, to pass SIGTERM on.
    flags = torch.tensor([asked, late, writing], device=trainer.strategy.root_device)
    torch.distributed.all_reduce(flags, torch.distributed.ReduceOp.MAX)
    asked, late, writing = flags.tolist()
    return asked, bool(late), bool(writing)
