"""The contract of callbacks that act after optimizer steps."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

from pytorch_lightning import Callback, LightningModule, Trainer
from torch import nn

from distill.core.utils.errors import UserError

__all__ = [
    "StepCallback",
    "count_steps",
    "finished",
    "logged",
    "logs_now",
    "step_callbacks",
    "student_of",
    "total_steps",
]


class StepCallback(Callback):
    """A callback that acts when an optimizer step is done, and not while gradients are accumulated.

    What a run asks of it besides, whatever its class: by how much it multiplies the learning rate, what it shows in
    the time line, what it leaves of the student at the end, and whether it works on a sharded student.
    """

    needs_unsharded_weights: ClassVar[bool] = False
    """Whether it reads or writes weights as wholes: it is then refused under ``trainer.strategy: sharded``, where each
    rank has a part of them. Any other Lightning callback may say so too."""

    writes_files: ClassVar[bool] = False
    """Whether it writes files, and is left out of ``--dry-run``. Any other Lightning callback may say so too."""

    _step: int = 0  # the last one that was acted upon

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._step = trainer.global_step

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step == self._step:
            return  # gradients are still accumulated
        self._step = trainer.global_step
        self.on_step_end(trainer, pl_module)

    def on_step_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Called after every optimizer step, before validation and checkpoints."""
        return

    def on_weights_set(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Called when another callback has given the student's weights other values, not by an optimizer step."""
        return

    def learning_rate_factor(self, step: int, total_steps: int) -> float:
        """What the learning rate of optimizer step ``step`` (0 is the first) is multiplied by.

        A pure function: the same factors are applied, logged, and drawn before the run. Those of several callbacks
        multiply.
        """
        return 1.0

    def timeline(self, steps: Iterable[int], total_steps: int) -> Mapping[str, list[float]]:
        """Name -> values at these steps, of what changes during the run; for ``--dry-run`` and the plot."""
        return {}

    def finish(self, student: nn.Module) -> list[dict[str, Any]]:
        """Leave the student as it is saved; called once, when the weights of the best step are back in it.

        Its own state is then that of this step (:meth:`load_state_dict`). Compressions finish last, in their order.

        Returns:
            The steps of ``compression.json``, in the order in which they were done.
        """
        return []


def finished(callback: StepCallback, student: nn.Module) -> list[dict[str, Any]]:
    """What ``callback`` says it did when it finished.

    Raises:
        UserError: if that is no list of steps.
    """
    steps: Any = callback.finish(student)
    if not isinstance(steps, list) or not all(isinstance(step, dict) and "kind" in step for step in steps):
        hint = 'return [{"kind": "my-step", ...}], or []'
        problem = f"finish must return a list of steps, and returns {steps!r:.80}"
        raise UserError(problem, key=type(callback).__name__, hint=hint)
    return steps


def step_callbacks(trainer: Trainer) -> list[StepCallback]:
    """The callbacks of this contract, in their order."""
    return [callback for callback in trainer.callbacks if isinstance(callback, StepCallback)]  # type: ignore[attr-defined]


def student_of(pl_module: LightningModule) -> nn.Module | None:
    """The part of a Lightning module that is compressed: what ``compressed_module()`` returns, or its ``student``."""
    named = getattr(pl_module, "compressed_module", None)
    found = named() if callable(named) else getattr(pl_module, "student", None)
    return found if isinstance(found, nn.Module) else None


def total_steps(pl_module: LightningModule) -> int:
    """How many optimizer steps the run has: what the module says, or else Lightning's estimate.

    Raises:
        UserError: if it says no whole number above 0, or the run has no end.
    """
    said: Any = getattr(pl_module, "total_steps", None)
    if said is None:
        return _estimate(pl_module.trainer)
    if isinstance(said, bool) or not isinstance(said, int) or said < 1:
        hint = "give how many optimizer steps the run has, or leave total_steps out"
        raise UserError("must be a whole number above 0", key="total_steps", value=said, hint=hint)
    return said


_estimates: weakref.WeakKeyDictionary[Trainer, tuple[object, int]] = weakref.WeakKeyDictionary()


def _estimate(trainer: Trainer) -> int:
    """Lightning's own, counted once for a run: it goes through the loaders each time."""
    asked = trainer.max_epochs, trainer.max_steps
    if trainer not in _estimates or _estimates[trainer][0] != asked:
        _estimates[trainer] = asked, count_steps(trainer)
    return _estimates[trainer][1]


def count_steps(trainer: Trainer) -> int:
    """How many optimizer steps a run has.

    Raises:
        UserError: if it has no end.
    """
    total = trainer.estimated_stepping_batches
    if total == float("inf"):
        raise UserError("a run needs an end", key="trainer.max_epochs", value=-1, hint="set max_epochs or max_steps")
    return int(total)


def logs_now(trainer: Trainer) -> bool:
    """Whether metrics of the step just done are logged."""
    return logged(trainer, trainer.global_step)


def logged(trainer: Trainer, step: int) -> bool:
    """Whether metrics of an optimizer step (the first is 1) are logged: of every so many, and of ``max_steps``.

    At that one Lightning logs whatever it has, which would be those of an earlier step.
    """
    every = trainer.log_every_n_steps  # type: ignore[attr-defined]
    return bool(every) and (step % every == 0 or step == trainer.max_steps)
