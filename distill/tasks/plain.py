"""Any pair of ``nn.Module`` that classifies: images, tables, signals. No tokenizer, no transformers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor
from torchmetrics import Metric

from distill.errors import UserError
from distill.signals import IGNORE, Batch, OutputKind
from distill.tally import Counts
from distill.tasks.base import Guess, Task
from distill.tasks.scores import Ratio

__all__ = ["Plain", "pairs"]


class Plain(Task):
    """Classification by plain modules, fed by a loader of your own.

    Logits are ``[B, C]``, or ``[B, T, C]`` with labels ``[B, T]``. The metric is ``accuracy`` over the labels
    that are not :data:`~distill.signals.IGNORE`.

    Args:
        adaptor: Makes a :class:`~distill.signals.Batch` of what the loader yields; :func:`pairs` by default.
    """

    name: ClassVar[str] = "plain"
    outputs: ClassVar[OutputKind] = "any"
    monitor = "accuracy"
    mode = "max"

    def __init__(self, adaptor: Callable[[Any], Batch] | None = None) -> None:
        self.adaptor = adaptor or pairs

    def batch(self, raw: Any) -> Batch:
        return raw if isinstance(raw, Batch) else self.adaptor(raw)

    def metrics(self) -> dict[str, Metric]:
        return {"accuracy": Ratio()}

    def update(self, metrics: Mapping[str, Metric], logits: Tensor, batch: Batch) -> None:
        if batch.labels is not None:
            valid = batch.labels != IGNORE
            metrics["accuracy"].update((logits.argmax(-1) == batch.labels) & valid, valid)

    def guess(self, counts: Counts, tokens: Tensor | None) -> Guess | None:
        n = int(counts.labels.sum())
        if not n:
            return None
        most = int(counts.labels.argmax())
        return Guess({"accuracy": int(counts.labels[most]) / n}, self.always(most))


def pairs(raw: Any) -> Batch:
    """``(x, y)`` or ``(x, y, ids)`` of a loader as ``Batch(inputs={"input": x}, labels=y, ids=ids)``.

    Labels equal to :data:`~distill.signals.IGNORE` are masked out.

    Raises:
        UserError: if the loader yields anything else.
    """
    if not isinstance(raw, (tuple, list)) or len(raw) not in (2, 3) or not all(isinstance(p, Tensor) for p in raw[:2]):
        raise UserError(
            f"a plain task's loader must yield (x, y) or (x, y, ids), and this one yields {type(raw).__name__}",
            key="model.task",
            value=Plain.name,
            mend="give Plain(adaptor=...) a function that makes a Batch of it",
        )
    x, labels = raw[0], raw[1]
    ids = None if len(raw) == 2 else torch.as_tensor(raw[2]).tolist()
    # On the host this look is free; on a device it would make every step wait.
    valid = labels != IGNORE
    mask = None if labels.device.type == "cpu" and bool(valid.all()) else valid
    return Batch(inputs={"input": x}, labels=labels, mask=mask, ids=ids)
