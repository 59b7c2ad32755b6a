"""What a batch holds for a teacher that reads other tokens than the student: told more, or by its own tokenizer."""

from __future__ import annotations

from torch import Tensor

from distill.core.signals import IGNORE, Batch

__all__ = ["THEIRS", "of_teacher", "teacher_inputs"]

THEIRS = "teacher_"
"""How the names of what is there for a teacher begin."""

_NOT_READ = ("at", "labels", "bytes")


def teacher_inputs(batch: Batch) -> dict[str, Tensor]:
    """The keyword arguments of the teacher's pass; none where it reads what the student does."""
    return {name: tensor for name, tensor in _theirs(batch).items() if name not in _NOT_READ}


def of_teacher(batch: Batch) -> Batch | None:
    """The texts of a batch as a teacher of another tokenizer reads and predicts them; ``None`` where it has the same.

    Without ids, as they are of the student's samples.
    """
    theirs = _theirs(batch)
    if "labels" not in theirs:
        return None
    inputs, mask = teacher_inputs(batch), theirs["labels"] != IGNORE
    real = inputs["attention_mask"].bool() if "attention_mask" in inputs else None
    return Batch(inputs, theirs["labels"], mask, real, extras={"bytes": theirs["bytes"]})


def _theirs(batch: Batch) -> dict[str, Tensor]:
    return {name.removeprefix(THEIRS): x for name, x in batch.extras.items() if name.startswith(THEIRS)}
