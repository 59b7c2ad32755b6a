"""Any pair of ``nn.Module`` that classifies: images, tables, signals. No tokenizer, no transformers."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torchmetrics import Metric

from distill.core.signals import IGNORE, Batch, OutputKind, Request, Signals
from distill.core.tally import Counts
from distill.core.task import Guess, Task
from distill.core.utils.errors import UserError
from distill.tasks.metrics import Ratio

__all__ = ["Plain", "pairs"]

_log = logging.getLogger(__name__)


class Plain(Task):
    """Classification by plain modules, fed by a loader of your own.

    Logits are ``[B, C]``, or ``[B, T, C]`` with labels ``[B, T]``. The metric is ``accuracy`` over the labels
    that are not :data:`~distill.core.signals.IGNORE`. Labels ``[B, C]`` that are floats are rows of probabilities, one
    label a sample; without a mask, those with a NaN are masked out.

    Args:
        adaptor: Makes a :class:`~distill.core.signals.Batch` of what the loader yields; :func:`pairs` by default.
    """

    name: ClassVar[str] = "plain"
    outputs: ClassVar[OutputKind] = "any"
    monitor = "accuracy"
    mode = "max"

    def __init__(self, adaptor: Callable[[Any], Batch] | None = None) -> None:
        self.adaptor = adaptor or pairs
        self._seen: set[int] = set()

    def batch(self, raw: Any) -> Batch:
        made: Any = raw if isinstance(raw, Batch) else self.adaptor(raw)
        if not isinstance(made, Batch):
            problem = f"the adaptor must return a distill.Batch, and returns a {type(made).__name__}"
            hint = "return Batch(inputs={name: tensor}, labels=tensor)"
            raise UserError(problem, key="model.task", value=self.name, hint=hint)
        if made.mask is None and made.labels is not None and _are_rows(made.labels):
            return replace(made, mask=~made.labels.isnan().any(-1))  # a row is one label, not C
        return made

    def forward(self, model: nn.Module, batch: Batch, request: Request) -> Signals:
        signals = super().forward(model, batch, request)
        if signals.logits is not None:
            # Later batches of a device are not looked at: each look would make a step wait.
            first = id(model) not in self._seen
            self._seen.add(id(model))
            looks = signals.logits.device.type == "cpu" or first
            if batch.labels is not None and not batch.labels.is_floating_point():
                _check_classes(signals.logits, batch.labels, looks)
            if first and _are_probabilities(signals.logits):
                name = type(model).__name__
                _log.warning("%s seems to give probabilities; logits are what stands before the softmax", name)
        return signals

    def metrics(self) -> dict[str, Metric]:
        return {"accuracy": Ratio()}

    def update(self, metrics: Mapping[str, Metric], logits: Tensor, batch: Batch) -> None:
        batch = self.for_evaluation(batch)
        if batch.labels is not None:
            if batch.labels.is_floating_point():
                problem = "accuracy is of classes, and the labels are numbers"
                hint = "give classes as integers, or your own metrics and update in a subclass of Plain"
                raise UserError(problem, key="model.task", value=self.name, hint=hint)
            valid = batch.labels != IGNORE
            metrics["accuracy"].update((logits.argmax(-1) == batch.labels) & valid, valid)

    def for_evaluation(self, batch: Batch) -> Batch:
        """With the likeliest class of each row of probabilities; an ``update`` of one's own gets what was given."""
        labels = batch.labels
        if (
            labels is None
            or labels.dim() != 2
            or not labels.is_floating_point()
            or type(self).update is not Plain.update
        ):
            return batch
        known = labels[~labels.isnan().any(-1)]
        if not _are_probabilities(known):
            return batch
        classes = labels.nan_to_num().argmax(-1).masked_fill(labels.isnan().any(-1), IGNORE)
        return replace(batch, labels=classes)

    def guess(self, counts: Counts, tokens: Tensor | None) -> Guess | None:
        n = int(counts.labels.sum())
        if not n:
            return None
        most = int(counts.labels.argmax())
        return Guess({"accuracy": int(counts.labels[most]) / n}, self.always(most))


def pairs(raw: Any) -> Batch:
    """``(x, y)`` or ``(x, y, ids)`` of a loader as ``Batch(inputs={"input": x}, labels=y, ids=ids)``.

    Labels equal to :data:`~distill.core.signals.IGNORE` or -1 are masked out; ids are integers. Numbers ``[B, C]`` are
    one label a sample: rows of probabilities, those with a NaN masked out.

    Raises:
        UserError: if the loader yields anything else.
    """
    if not isinstance(raw, (tuple, list)) or len(raw) not in (2, 3) or not all(isinstance(p, Tensor) for p in raw[:2]):
        raise UserError(
            f"a plain task's loader must yield (x, y) or (x, y, ids), and this one yields {type(raw).__name__}",
            key="model.task",
            value=Plain.name,
            hint="give Plain(adaptor=...) a function that makes a Batch of it",
        )
    x, labels = raw[0], raw[1]
    ids = None if len(raw) == 2 else _ids(raw[2], len(x))
    if not labels.is_floating_point():
        labels = labels.long().masked_fill(labels == -1, IGNORE) if labels.dtype != torch.bool else labels.long()
    rows = _are_rows(labels)
    # On the host this look is free; on a device it would make every step wait.
    valid = ~labels.isnan().any(-1) if rows else labels != IGNORE
    mask = None if not rows and labels.device.type == "cpu" and bool(valid.all()) else valid
    return Batch(inputs={"input": x}, labels=labels, mask=mask, ids=ids)


def _ids(given: Any, count: int) -> list[int]:
    try:
        ids = torch.as_tensor(given)
    except (TypeError, ValueError, RuntimeError):
        ids = torch.empty(0)
    if ids.is_floating_point() or ids.is_complex() or ids.dtype == torch.bool or ids.numel() != count:
        raise UserError(
            "the third that a plain task's loader yields is an integer for each sample, by which a teacher "
            f"remembers it, and this one yields {_kind(given)} for {count} samples",
            key="model.task",
            value=Plain.name,
            hint="give the sample's number, or leave it out; for anything else give Plain(adaptor=...) a function",
        )
    return ids.flatten().tolist()


def _kind(given: Any) -> str:
    if isinstance(given, Tensor):
        return f"{given.dtype} of {list(given.shape)}".removeprefix("torch.")
    element = type(given[0]).__name__ if isinstance(given, (list, tuple)) and given else ""
    return f"a {type(given).__name__}" + (f" of {element}" if element else "")


def _check_classes(logits: Tensor, labels: Tensor, looks: bool) -> None:
    """Refuse labels that are not one class for each row of ``logits``.

    Args:
        logits: ``[..., C]``.
        labels: Whole numbers.
        looks: Whether their values are looked at too.
    """
    shape, count = list(logits.shape), logits.shape[-1] if logits.dim() else 0
    if not logits.dim():
        problem, hint = "the model gives a single number, and must give logits of [B, C]", "return the logits, no loss"
        raise UserError(problem, key="model.task", value=Plain.name, hint=hint)
    if labels.shape != logits.shape[:-1]:
        problem = (
            f"labels are {list(labels.shape)} for logits of {shape}, and must be {shape[:-1]}: a class for each row"
        )
        hint = "take labels.argmax(-1)" if labels.shape == logits.shape else "reshape one of them; classes come last"
        raise UserError(problem, key="model.task", value=Plain.name, hint=hint)
    if not looks or not labels.numel():
        return
    wrong = ((labels < 0) | (labels >= count)) & (labels != IGNORE)
    if bool(wrong.any()):
        problem = f"a label is {int(labels[wrong][0])}, and {count} outputs are for the classes 0 to {count - 1}"
        hint = f"number the classes from 0 ({IGNORE} is no label), or give the models more outputs"
        raise UserError(problem, key="model.task", value=Plain.name, hint=hint)


def _are_rows(labels: Tensor) -> bool:
    """Whether labels ``[B, C]`` are numbers: one label a sample, a row of probabilities."""
    return labels.is_floating_point() and labels.dim() == 2


def _are_probabilities(logits: Tensor) -> bool:
    values = logits.detach().float()
    return values.shape[-1] > 1 and bool((values >= 0).all() & ((values.sum(-1) - 1).abs() < 1e-3).all())
