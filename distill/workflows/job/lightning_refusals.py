"""What Lightning itself refuses, as the one message of a mistake."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from types import FrameType
from typing import Any

from lightning_fabric.utilities.exceptions import MisconfigurationException
from pytorch_lightning import Callback, LightningModule, Trainer

from distill.core.utils.errors import TrainingError, UserError

__all__ = ["PACKAGES", "explained", "refusal"]

PACKAGES = ("pytorch_lightning", "lightning_fabric", "lightning")
"""Of Lightning, whichever way it was installed."""

# Who raised an error is read off its frames: Lightning refuses by plain ValueErrors as often as by an exception of its
# own, and within the one call that is ours (fit) it calls models, data and callbacks, ours and the user's. A wrapper
# around that call does not know which of them failed, and one around each of theirs would be in everybody's objects.


class _Begun(Callback):
    """Notes that a batch is being trained on."""

    begun = False

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self.begun = True


@contextmanager
def explained(trainer: Trainer, callbacks: Sequence[Callback], given: Mapping[str, Any]) -> Iterator[None]:
    """Within the block, which fits ``trainer``, what Lightning finds wrong is one message.

    Args:
        trainer: With its callbacks, in front of which one is put here.
        callbacks: Of the configuration.
        given: The trainer's arguments, as configured.

    Raises:
        UserError: if Lightning refused it before the first batch: of what was begun there is nothing to keep.
        TrainingError: if it did so later.
    """
    watch = _Begun()
    trainer.callbacks.insert(0, watch)  # type: ignore[attr-defined]
    try:
        yield
    except (UserError, TrainingError, OSError):
        raise
    except Exception as error:
        if not of_lightning(error):
            raise
        refused = refusal(error, callbacks, given)
        if not watch.begun:
            raise refused from error
        if isinstance(error, MisconfigurationException) or refused.key.startswith("callbacks."):
            raise TrainingError(str(refused)) from error
        raise  # a fault, of which the place is needed


def of_lightning(error: BaseException) -> bool:
    """Whether Lightning raised it: of the innermost frames those of torch and of Python itself are passed over."""
    return next((name.split(".")[0] in PACKAGES for name in map(_module, _frames(error)) if _speaks(name)), False)


def _frames(error: BaseException) -> Iterator[FrameType]:
    """Of the place where it was raised, and then of each caller."""
    frames = []
    trace = error.__traceback__
    while trace is not None:
        frames.append(trace.tb_frame)
        trace = trace.tb_next
    return reversed(frames)


def _module(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__", ""))


def _speaks(module: str) -> bool:
    top = module.split(".")[0]
    if module.startswith("torch.utils.data"):  # which raises anew what the data did in a worker
        return True
    return top not in sys.stdlib_module_names and top not in ("torch", "lightning_utilities")


def refusal(
    error: BaseException, callbacks: Sequence[Callback] = (), given: Mapping[str, Any] | None = None
) -> UserError:
    """What Lightning raised, as the one message of a mistake.

    Args:
        error: What it raised.
        callbacks: Of the configuration.
        given: The trainer's arguments, as configured.
    """
    problem = " ".join(str(error).split()) or type(error).__name__
    install = re.search(r"pip install [^`]+", problem)
    hint = f"install it ({install.group().strip()}), or leave it out" if install else ""
    problem = problem.split(" HINT:")[0]
    for frame in _frames(error):
        blamed = frame.f_locals.get("self")
        index = next((i for i, callback in enumerate(callbacks) if callback is blamed), None)
        if index is not None:
            name = type(blamed).__name__
            return UserError(
                problem, key=f"callbacks.{index}", value=name, hint=hint or "leave it out, or correct that"
            )
    key, value = _blamed(problem, given or {})
    if key == "trainer.accelerator":
        hint = "give cpu, or auto, which takes what there is"
    return UserError(problem, key=key, value=value, hint=hint or "give another value, or leave it out")


def _blamed(message: str, given: Mapping[str, Any]) -> tuple[str, Any]:
    """The argument that a message names first, or whose value it names."""
    found = []
    for name, value in given.items():
        if value is None or isinstance(value, bool):
            continue
        for words in (name, value):
            place = (
                re.search(rf"(?<!\w){re.escape(words)}(?!\w)", message) if isinstance(words, str) and words else None
            )
            if place:
                found.append((place.start(), f"trainer.{name}", value))
    _, key, value = min(found, key=lambda each: each[:2], default=(0, "trainer", None))
    return key, value if isinstance(value, (str, int, float, list, timedelta)) or value is None else type(
        value
    ).__name__
