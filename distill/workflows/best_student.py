"""The student that a run ends with: that of its best checkpoint, or of the next best intact one."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, NamedTuple

from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import ModelCheckpoint

from distill.callbacks import BestCheckpoint, compressions
from distill.callbacks.scores import Scores
from distill.core.step_callback import StepCallback, step_callbacks
from distill.core.trained_module import total_steps
from distill.core.utils.errors import UserError, first_line
from distill.run.checkpoints.file import Damaged, SafeCheckpointIO

__all__ = ["Restored", "restore_best"]

_log = logging.getLogger(__name__)


class Restored(NamedTuple):
    """Which weights the student has been given.

    Attributes:
        step: They are those after so many optimizer steps.
        total: So many the run then had; it may have been extended since.
        states: Of the callbacks at that step; empty where the student has been left as it was.
        scores: What its validation found; empty where it had none.
        evidence: What else that measured (:attr:`Evidence.found <distill.training.evidence.Evidence>`).
        instead: Why they are not those of the best checkpoint; empty where they are.
    """

    step: int
    total: int
    states: dict[str, Any]
    scores: Mapping[str, float]
    evidence: Mapping[str, Any]
    instead: str = ""


def restore_best(trainer: Trainer, module: LightningModule) -> Restored:
    """Give the student the weights of the best checkpoint; where that cannot be read, of the next best.

    Args:
        trainer: At the end of training.
        module: That was trained.
    """
    callback = next((c for c in trainer.callbacks if isinstance(c, Scores)), Scores())  # type: ignore[attr-defined]
    kept = callback.by_step

    def of(step: int) -> tuple[Mapping[str, float], Mapping[str, Any]]:
        return kept.get(step, {}), callback.evidence.get(step, {})

    writer = trainer.strategy.checkpoint_io
    if isinstance(writer, SafeCheckpointIO):
        writer.settle()  # an older one goes when every rank has the newer one
    trainer.strategy.barrier()  # what rank 0 has written, all read
    here = Restored(trainer.global_step, total_steps(module), {}, *of(trainer.global_step))
    best = next((c for c in trainer.checkpoint_callbacks if isinstance(c, BestCheckpoint) and c.best_model_path), None)
    if best is None:
        return _of_lightning(trainer, here)
    found: dict[str, Any] | None
    instead = ""
    try:
        found = trainer.strategy.load_checkpoint(best.best_model_path, weights_only=True)
    except Damaged as error:
        found = _next_best(trainer, best, kept, here.total)
        taken = trainer.global_step if found is None else found["global_step"]
        chosen = [step for step in kept if _small(trainer, step, here.total)]
        if taken != max(chosen, key=lambda step: _rank(best, kept, step), default=None):
            instead = str(error)
    if found is None or found["global_step"] == trainer.global_step:
        return here._replace(instead=instead)
    trainer.strategy.load_model_state_dict(found)
    step, total = int(found["global_step"]), int(found.get("total_steps", here.total))
    return Restored(step, total, found["callbacks"], *of(step), instead)


def _of_lightning(trainer: Trainer, here: Restored) -> Restored:
    """The weights of what Lightning's own ``ModelCheckpoint`` calls the best, in a run that has none of ours."""
    kept = (one for one in trainer.checkpoint_callbacks if isinstance(one, ModelCheckpoint) and one.monitor)
    path = next((one.best_model_path for one in kept if one.best_model_path), None)
    if path is None:
        return here
    try:
        found = trainer.strategy.load_checkpoint(path, weights_only=True)
    except UnpicklingError as error:
        problem = f"holds more than tensors and plain values ({first_line(error)})"
        hint = "leave other objects out of save_hyperparameters and of the callbacks' states"
        raise UserError(problem, key="checkpoint", value=path, hint=hint) from error
    except (Damaged, OSError, RuntimeError, EOFError) as error:  # cut off, or not there any more
        message = "the best checkpoint, %s, cannot be read (%s): the last step's weights are taken"
        _log.warning(message, path, first_line(error))
        return here
    step = int(found["global_step"])
    if step == trainer.global_step:
        return here
    if not _small(trainer, step, here.total):
        message = "the best checkpoint is of step %d, before compressions had reached their targets: the last step's "
        _log.warning(message + "weights are taken (distill.callbacks.BestCheckpoint keeps none before that)", step)
        return here
    if "callbacks" not in found and (averages := _averages(trainer)):
        message = "the best checkpoint is of step %d and holds weights only, and not %s's of that step: the last "
        _log.warning(message + "step's weights are taken (leave out save_weights_only)", step, " and ".join(averages))
        return here
    trainer.strategy.load_model_state_dict(found)
    return here._replace(step=step, states=found.get("callbacks", {}), scores={}, evidence={})


def _averages(trainer: Trainer) -> list[str]:
    """Names of callbacks that would write what they hold of the last step over the weights of another."""
    changed = compressions(trainer)
    writing = (c for c in step_callbacks(trainer) if c not in changed and type(c).finish is not StepCallback.finish)
    return [type(callback).__name__ for callback in writing if callback.state_dict()]


def _next_best(
    trainer: Trainer, best: BestCheckpoint, kept: Mapping[int, Mapping[str, float]], here: int
) -> dict[str, Any] | None:
    """The best of the intact checkpoints beside one that cannot be read; nothing where the last step does as well.

    None is taken whose score is not known, or whose student is larger than was asked for.
    """
    found, highest = None, _rank(best, kept, trainer.global_step)
    for path in sorted(Path(best.dirpath or "").rglob("*.ckpt")):
        if path.parent.suffix == ".ckpt":
            continue  # one rank's part
        try:
            one = trainer.strategy.load_checkpoint(path, weights_only=True)
            step, total, _ = one["global_step"], one.get("total_steps", here), one["callbacks"]
        except (Damaged, UserError, KeyError, TypeError):  # cut off, altered, or no complete state of a run
            continue
        rank = _rank(best, kept, step)
        if _small(trainer, step, total) and math.isfinite(rank[0]) and rank > highest:
            found, highest = one, rank
    return found


def _rank(best: BestCheckpoint, kept: Mapping[int, Mapping[str, float]], step: int) -> tuple[float, int]:
    """Larger for the better step; of equal ones the first is the best, as for :class:`BestCheckpoint`."""
    score = kept.get(step, {}).get(str(best.monitor).removeprefix("val/"), math.nan)
    return -math.inf if math.isnan(score) else score if best.mode == "max" else -score, -step


def _small(trainer: Trainer, step: int, total: int) -> bool:
    """Whether the student was as small as asked for at ``step``."""
    return all(compression.target_reached(step, total) for compression in compressions(trainer))
