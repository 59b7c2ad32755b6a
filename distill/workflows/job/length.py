"""How long a run is of which only the least length is given."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from pytorch_lightning import Trainer

from distill.core.internals.lightning import set_epochs
from distill.core.utils.errors import UserError
from distill.data import TextData
from distill.workflows.job.lightning_limits import no_end

__all__ = ["MOST_EPOCHS", "epochs_for", "settle_length", "steps_of", "with_length"]

MOST_EPOCHS = 50
"""The most epochs that ``min_steps`` asks for: with a handful of rows more would only learn them by heart."""


def epochs_for(steps_an_epoch: int, min_epochs: int, min_steps: int) -> int:
    """The fewest epochs that are ``min_epochs`` at least and have ``min_steps`` optimizer steps.

    For the sake of ``min_steps`` there are no more than :data:`MOST_EPOCHS`.
    """
    return max(1, min_epochs, min(math.ceil(min_steps / steps_an_epoch), MOST_EPOCHS))


def settle_length(data: object, trainer: Trainer, given: dict[str, Any]) -> None:
    """Give a run its ``max_epochs`` where only ``min_epochs`` and ``min_steps`` say how long it is.

    Args:
        data: The data module.
        trainer: Made with the arguments; its limit is changed.
        given: The configured arguments; ``max_epochs`` is added.

    Raises:
        UserError: if the data is no :class:`~distill.data.TextData`, whose batches can be counted beforehand.
    """
    if not _open(given):
        return
    if not isinstance(data, TextData):
        raise no_end(given.get("max_epochs"))
    steps, least = _steps_an_epoch(data, trainer), (given.get(key) or 0 for key in ("min_epochs", "min_steps"))
    given["max_epochs"] = epochs_for(steps, *least)
    set_epochs(trainer, given["max_epochs"])


def with_length(config: dict[str, Any], began: Mapping[str, Any]) -> dict[str, Any]:
    """``config`` with the length that its run was given when it began, where it says none itself."""
    if not _open(config["trainer"]):
        return config
    return {**config, "trainer": {**config["trainer"], "max_epochs": began["trainer"].get("max_epochs")}}


def steps_of(data: object, trainer: Trainer) -> int:
    """Optimizer steps of a run, before it begins.

    Args:
        data: The data module.
        trainer: Made with the run's arguments, its length settled.

    Raises:
        UserError: if only epochs say how long it is, and the data cannot tell how many steps these have.
    """
    most, epochs = trainer.max_steps, trainer.max_epochs
    if epochs is None or epochs < 0:
        return most
    if not isinstance(data, TextData):
        if most > 0:
            return most
        hint = "give trainer.max_steps"
        raise UserError("is the only length, and this data does not say its own", key="trainer.max_epochs", hint=hint)
    steps = epochs * _steps_an_epoch(data, trainer)
    return min(steps, most) if most > 0 else steps


def _open(given: Mapping[str, Any]) -> bool:
    """Whether these arguments give no end; of those that are to train they give the least length then."""
    return not any((given.get(key) or -1) > 0 for key in ("max_epochs", "max_steps"))


def _steps_an_epoch(data: TextData, trainer: Trainer) -> int:
    data.trainer = trainer  # which knows the ranks
    batches, limit = len(data.training_batches()), trainer.limit_train_batches
    batches = min(batches, limit) if isinstance(limit, int) else int(batches * limit)
    return max(1, math.ceil(batches / trainer.accumulate_grad_batches))
