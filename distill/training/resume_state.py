"""What a checkpoint says of teacher, data and packages, and whether all of them are still the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy
import pytorch_lightning
import torch
import transformers
from pytorch_lightning import Trainer
from torch import Tensor

from distill.core.utils.errors import UserError
from distill.core.utils.version import VERSION
from distill.core.utils.visible import visible
from distill.models.teachers import TeacherSource

__all__ = ["other_versions", "refuse_changed", "resume", "share", "state_of", "versions"]


def versions() -> dict[str, str]:
    """The packages that a step's bits depend on, with their versions."""
    packages = torch, transformers, pytorch_lightning, numpy
    return {"distill": VERSION} | {package.__name__: str(package.__version__) for package in packages}


def other_versions(checkpoint: Mapping[str, Any]) -> str:
    """What trains now instead of what ``checkpoint`` was saved by; empty where nothing has changed."""
    began, now = checkpoint.get("versions"), versions()  # the first checkpoints of all did not say
    if not isinstance(began, Mapping):
        return ""
    changed = [name for name in now if name in began and began[name] != now[name]]
    return visible(", ".join(f"{name} {now[name]} instead of {str(began[name])[:200]}" for name in changed))


def _data_fingerprint(trainer: Trainer) -> str | None:
    """What the samples' ids stand for, where a data module says."""
    return getattr(getattr(trainer, "datamodule", None), "fingerprint", None)


def state_of(trainer: Trainer, teacher: TeacherSource | None, scores: Mapping[str, float]) -> dict[str, Any]:
    """What a checkpoint holds of data and teacher; all ranks take part.

    Args:
        trainer: Of the run.
        teacher: That of this rank, if there is one.
        scores: Its metrics on the validation data.
    """
    state: dict[str, Any] = {"data": _data_fingerprint(trainer)}
    if teacher is not None:
        state["teacher"] = _teacher_state(teacher, scores, trainer.global_rank, trainer.world_size)
    return state


def resume(checkpoint: Mapping[str, Any], trainer: Trainer, teacher: TeacherSource | None) -> dict[str, float]:
    """Give the teacher back what :func:`state_of` kept of it; its scores.

    Raises:
        UserError: if teacher, data or tokenizer are not those of the checkpoint.
    """
    refuse_changed(checkpoint, teacher, _data_fingerprint(trainer))
    saved = checkpoint.get("teacher")
    if saved is None or teacher is None:
        return {}
    _remember(teacher, saved, trainer.global_rank, trainer.world_size)
    return dict(saved["scores"])


def _teacher_state(teacher: TeacherSource, scores: Mapping[str, float], rank: int, world: int) -> dict[str, Any]:
    """What a checkpoint holds of ``teacher``; all ranks take part, and rank 0 has all of it.

    Args:
        teacher: That of this rank.
        scores: Its metrics on the validation data.
        rank: This one.
        world: How many ranks there are.
    """
    return {
        "fingerprint": teacher.fingerprint,
        "remembered": _of_all_ranks(teacher.state_dict(own=rank > 0), rank, world),
        "scores": dict(scores),
    }


def _remember(teacher: TeacherSource, saved: Mapping[str, Any], rank: int, world: int) -> None:
    """Give ``teacher`` back what it knew on this rank; where the number of ranks has changed, all that any knew."""
    remembered = saved["remembered"]
    if len(remembered) != world:
        teacher.load_state_dict(_joined(remembered))
    else:
        teacher.load_state_dict(remembered[rank], remembered[0] if rank else None)


def share(teacher: TeacherSource, world: int) -> None:
    """Have the teachers of all ranks remember what any of them does; all ranks take part."""

    def gather(state: dict[str, Tensor]) -> list[dict[str, Tensor]]:
        states: list[Any] = [None] * world
        torch.distributed.all_gather_object(states, state)
        return states

    if world > 1:
        teacher.share(gather)


def refuse_changed(checkpoint: Mapping[str, Any], teacher: TeacherSource | None, data: str | None) -> None:
    """Refuse a checkpoint of another teacher, other data or another tokenizer.

    Args:
        checkpoint: A run's.
        teacher: The one that is there now.
        data: The fingerprint of the data that is there now, where a data module says.

    Raises:
        UserError: saying which of them has changed.
    """
    began = checkpoint.get("data")
    if began is not None and data is not None and began != data:
        then, now = began.split("-"), data.split("-")
        if len(then) == 1:  # of a data module of one's own
            _refuse("the data is not that of the run", "data")
        if then[-1] != now[-1]:
            _refuse("the tokenizer is not the one that the run began with", "data.tokenizer")
        what = (
            "training samples, as they are tokenized," if then[0] != now[0] else "validation samples, or the classes,"
        )
        _refuse(f"the {what} are not those of the run", "data")
    saved = checkpoint.get("teacher")
    if (saved is None) != (teacher is None):
        _refuse("the run began without a teacher" if saved is None else "the run began with a teacher")
    if saved is not None and teacher is not None and saved["fingerprint"] != teacher.fingerprint:
        _refuse("this is not the teacher that the run began with (its weights or its tokenizer differ)")


def _refuse(problem: str, what: str = "model.teacher") -> None:
    raise UserError(problem, key=what, hint="give it back as it was, or start a new run")


def _of_all_ranks(state: dict[str, Tensor], rank: int, world: int) -> list[dict[str, Tensor]]:
    """One state a rank, on the rank that writes: which samples a rank has seen is part of the run.

    What all ranks have is in rank 0's alone.
    """
    if world == 1:
        return [state]
    states: list[Any] = [None] * world
    torch.distributed.gather_object(state, states if rank == 0 else None)
    return states


def _joined(states: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """What the ranks of another number of processes remember, for each of these."""
    names = {name: None for state in states for name in state if not name.endswith("shared")}
    parts = {name: [state[name] for state in states if name in state] for name in names}
    return {name: torch.cat(of) if of[0].dim() else torch.stack(of).amax() for name, of in parts.items()}
