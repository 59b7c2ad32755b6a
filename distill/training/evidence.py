"""What a validation measures besides scores, for the verdict: counts, standard errors, layers that say nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from pytorch_lightning import Trainer
from torch import Tensor, nn
from torchmetrics import Metric

from distill.compression.operations import aside
from distill.core.module_selection import CONVOLUTIONS, LINEAR
from distill.core.scored import Scored, guess_at_random
from distill.core.signals import Batch
from distill.core.tally import Counts, Tally, most_common
from distill.core.utils.words import amount
from distill.core.verdict import ENOUGH, few_classes
from distill.tasks import Task

__all__ = ["Evidence", "Spreads", "counted", "empty_layers"]

_LAYERS = (*LINEAR, *CONVOLUTIONS)
_POSITIONS = 256
_EQUAL = 1e-6
_SHOWN = 3


class Spreads:
    """How far apart the outputs of each layer lie, over some positions of a batch."""

    def __init__(self) -> None:
        self._spreads: dict[str, list[Tensor]] = {}

    @contextmanager
    def watching(self, model: nn.Module) -> Iterator[None]:
        """Look at what the linear maps and convolutions of ``model`` give, inside the block."""

        def watch(name: str, module: nn.Module) -> Any:
            def look(_: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
                if isinstance(output, Tensor) and inputs and isinstance(inputs[0], Tensor):
                    axis = -1 if isinstance(module, LINEAR) else 1
                    with aside():
                        spreads = torch.stack([_spread(of.detach(), axis) for of in (inputs[0], output)])
                    self._spreads.setdefault(name, []).append(spreads)

            return module.register_forward_hook(look)

        self._spreads = {}
        layers = ((name, module) for name, module in model.named_modules() if isinstance(module, _LAYERS))
        handles = [watch(name, module) for name, module in layers]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def constant(self) -> list[str]:
        """The layers whose outputs were the same at all positions, though their inputs were not."""
        names = list(self._spreads)
        if not names:
            return []
        worst = torch.stack([torch.stack(spreads).amax(0) for spreads in self._spreads.values()]).tolist()
        return [name for name, (before, after) in zip(names, worst, strict=True) if before > _EQUAL >= after]


def _spread(values: Tensor, axis: int) -> Tensor:
    """The largest range over the positions of a channel, beside the largest absolute value; infinite if not finite."""
    rows = values.movedim(axis, -1).flatten(0, -2)
    rows = rows[:: 1 + len(rows) // _POSITIONS].float()
    if len(rows) < 2:
        return torch.full((), torch.inf, device=values.device)
    spread = (rows.amax(0) - rows.amin(0)).amax() / rows.abs().amax().clamp(min=torch.finfo(torch.float32).tiny)
    return spread.nan_to_num(nan=torch.inf)


def empty_layers(model: nn.Module) -> list[str]:
    """Modules whose weight, a matrix or more, is zero throughout."""
    weights = {name: getattr(module, "weight", None) for name, module in model.named_modules()}
    return [
        name
        for name, weight in weights.items()
        if isinstance(weight, Tensor) and weight.dim() > 1 and weight.numel() and not weight.any()
    ]


def counted(task: Task, counts: Counts, metrics: Mapping[str, Metric], tokens: Tensor | None) -> dict[str, Any]:
    """What the counts of an evaluation show besides its scores, for :mod:`distill.core.verdict`.

    Args:
        task: Whose predictions they are.
        counts: Of all ranks.
        metrics: Of the task; computed.
        tokens: How often each token is to be predicted in the training data; ``None`` if not known.

    Returns:
        ``predictions``, and as far as they are known ``undefined``, ``most_predicted`` and ``most_labels``,
        ``never_predicted``, ``few_labels``, ``no_label_of``, ``numbers``, ``standard_error`` (of the monitored one),
        ``guess`` and ``guess_is``.
    """
    found: dict[str, Any] = {"predictions": counts.total}
    if counts.undefined:
        found["undefined"] = counts.undefined
    for key, often in (("most_predicted", counts.predictions), ("most_labels", counts.labels)):
        if len(often) and counts.total:
            classes, share = most_common(often, counts.total, counts.sets)
            found[key] = {"class": _named(task, classes), "share": share}
    if never := _never_predicted(task, counts):
        found["never_predicted"] = never
    if few := _few_labels(task, counts):
        found["few_labels"] = few
    if unscored := _unscored(task, counts):
        found["no_label_of"] = unscored
    labels, predicted = counts.numbers
    if labels.count and not counts.undefined:
        spreads = (("predicted", predicted), ("labels", labels))
        found["numbers"] = {who: {"mean": of.mean, "deviation": of.deviation} for who, of in spreads}
    error = getattr(metrics[task.monitor], "standard_error", None)
    if isinstance(error, Tensor) and error.isfinite():
        found["standard_error"] = float(error)
    if guess := task.guess(counts, tokens) or guess_at_random(metrics):
        found |= {"guess": dict(guess.scores), "guess_is": guess.says}
    return found


def _never_predicted(task: Task, counts: Counts) -> dict[str, Any] | None:
    """The classes that are labels and no prediction, where classes have names, the most frequent first."""
    if not getattr(task, "labels", None) or not counts.total or len(counts.labels) != len(counts.predictions):
        return None
    missed = counts.labels * (counts.predictions == 0)
    classes = [int(one) for one in missed.argsort(descending=True, stable=True) if missed[one]]
    return {"class": _named(task, classes), "labels": int(missed.sum())} if classes else None


def _few_labels(task: Task, counts: Counts) -> dict[str, Any] | None:
    """The classes of which there are labels, but hardly any, where classes have names, the rarest first."""
    if not getattr(task, "labels", None) or counts.total < ENOUGH:
        return None
    few = few_classes(counts.labels.tolist())
    return {"class": _named(task, few), "labels": int(counts.labels[few].sum())} if few else None


def _unscored(task: Task, counts: Counts) -> str | None:
    """The classes of which there is no label, where classes have names and there are labels."""
    if not getattr(task, "labels", None) or not counts.labels.any():
        return None
    classes = (counts.labels == 0).nonzero().flatten().tolist()
    return _named(task, classes) if classes else None


def _named(task: Task, classes: list[int]) -> str:
    """Classes in words: ``class 'a'``, ``classes 'a' and 'b'``, ``no class``."""
    word = "token" if getattr(task, "predicted", None) else "class"
    names = [task.class_name(one) for one in classes[:_SHOWN]]
    if len(classes) > _SHOWN:
        names.append(amount(len(classes) - _SHOWN, "other"))
    if len(names) < 2:
        return f"{word} {names[0]}" if names else f"no {word}"
    return f"{word}es {', '.join(names[:-1])} and {names[-1]}"


class Evidence:
    """What a module's validations measure besides its metrics.

    Attributes:
        found: Of the last validation, for ``result.json``: ``constant_layers``, what :func:`counted` gives, and
            ``batches`` (those scored, and all there are) and ``in_train`` (texts of the split that were trained on, and
            all of its) where they are known.
    """

    def __init__(self) -> None:
        self.found: dict[str, Any] = {}
        self._tally, self._spreads = Tally(), Spreads()
        self._tokens: tuple[Tensor | None] | None = None

    def watching(self, model: nn.Module, batch: int) -> AbstractContextManager[None]:
        """Look at the layers' outputs in the first batch, ``batch`` 0, alone: that is enough, and costs little."""
        return self._spreads.watching(model) if batch == 0 else nullcontext()

    def add(self, scored: Scored, batch: Batch) -> None:
        """Count a batch, as :meth:`Tally.add`."""
        self._tally.add(scored.classes, batch, scored.by)

    def compute(self, task: Task, metrics: Mapping[str, Metric], trainer: Trainer) -> None:
        """Set :attr:`found` when a validation ends; on every rank, with metrics that are computed."""
        counts = self._tally.take(trainer.world_size)
        found: dict[str, Any] = {"constant_layers": self._spreads.constant()}
        found |= counted(task, counts, metrics, self.token_counts(trainer))
        if batches := _batches_scored(trainer):
            found["batches"] = batches
        if known := self._in_train(trainer):
            found["in_train"] = list(known)
        self.found = found

    @staticmethod
    def _in_train(trainer: Trainer) -> tuple[int, int] | None:
        """Rows of the split that were trained on too, and all of it, scored or not, where that is known."""
        of = getattr(getattr(trainer, "datamodule", None), "in_train", {})
        return of.get("test" if trainer.state.fn == "test" else "validation")

    def token_counts(self, trainer: Trainer) -> Tensor | None:
        """How often each token is to be predicted in the training data, where that is known; asked once."""
        if self._tokens is None:
            counts = getattr(getattr(trainer, "datamodule", None), "token_counts", None)
            self._tokens = (None if counts is None else counts(),)
        return self._tokens[0]


def _batches_scored(trainer: Trainer) -> list[int] | None:
    """Batches that an evaluation takes of its loader, and those that this holds, on one rank; ``None`` if unknown."""
    testing = trainer.state.fn == "test"
    loaders = trainer.test_dataloaders if testing else trainer.val_dataloaders
    loaders = loaders if isinstance(loaders, (list, tuple)) else [loaders]
    try:
        every = sum(len(loader) for loader in loaders)
    except TypeError:
        return None
    return [int(sum(trainer.num_test_batches if testing else trainer.num_val_batches)), every]
