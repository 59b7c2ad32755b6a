"""A metric sample by sample, so that samples can be drawn anew without running a model again."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchmetrics import Metric

from distill.core.internals.torchmetrics import additive_states, value_of
from distill.core.scored import Guess, Scored, guess_at_random
from distill.core.signals import Batch, Signals
from distill.core.task import Task, TokenTask
from distill.core.token_scores import TokenScores
from distill.workflows.report.statistics import Numbers, resamples

__all__ = ["SampleScores"]

_AT_ONCE = 2**22  # states of draws that are there together


class SampleScores:
    """What each sample adds to each metric of a task.

    Metrics whose states add up (counts, sums, confusion matrices) are known of any choice of samples by a product of
    matrices. Of any other, such as a rank correlation, outputs and labels are kept and shown to it anew, where there
    is one prediction a sample, judged by itself.

    Args:
        task: Whose metrics.
    """

    def __init__(self, task: Task) -> None:
        self._task, self._metrics = task, task.metrics()
        self._whole = task.metrics()
        self._sums: dict[str, _States] = {
            name: _States(metric) for name, metric in self._metrics.items() if additive_states(metric) is not None
        }
        self._shown: list[tuple[Tensor, Tensor]] = []
        self.size = 0

    @property
    def names(self) -> list[str]:
        """The metrics."""
        return list(self._metrics)

    def add(self, found: Signals | TokenScores, batch: Batch) -> Scored:
        """Show a batch's samples to the metrics, one after the other.

        Args:
            found: With logits; or what is known of them.
            batch: With its labels as metrics read them.

        Returns:
            What the batch's signals predict.
        """
        if isinstance(found, TokenScores):
            self._judge(self._whole, found, batch)
            scored = Scored(found.predicted, found)
        else:
            scored = self._task.score(self._whole, found, batch)
        for row in range(batch.size):
            self._show(scored.by, row, batch.rows([row]))
            for name, sums in self._sums.items():
                sums.add(self._metrics[name])
            for metric in self._metrics.values():
                metric.reset()
        kept = len(self._sums) < len(self._metrics) and self._task.by_sample
        if kept and isinstance(scored.by, Tensor) and batch.labels is not None:
            self._shown.append((scored.by.cpu(), batch.labels.cpu()))
        self.size += batch.size
        return scored

    def _show(self, by: Tensor | TokenScores, row: int, batch: Batch) -> None:
        """Show one sample to the metrics."""
        chosen = slice(row, row + 1)
        if isinstance(by, Tensor):
            self._task.update(self._metrics, by[chosen], batch)
            return
        accepted = None if by.acceptance is None else by.acceptance[chosen]
        one = TokenScores(by.nats[chosen], by.predicted[chosen], by.undefined[chosen], accepted, by.width)
        self._judge(self._metrics, one, batch)

    def _judge(self, metrics: Mapping[str, Metric], scores: TokenScores, batch: Batch) -> None:
        assert isinstance(self._task, TokenTask)
        self._task.judge(metrics, scores, batch)

    def guess_at_random(self) -> Guess | None:
        """What an order at random scores, where the metrics rank."""
        self.values()
        return guess_at_random(self._whole)

    def values(self) -> dict[str, float]:
        """Every metric on all samples, as a validation computes it."""
        return {name: float(metric.compute()) for name, metric in self._whole.items()}

    @property
    def drawn(self) -> list[str]:
        """The metrics that can be computed of other samples than all."""
        shown = sum(len(labels) for _, labels in self._shown) == self.size
        return self.names if shown else list(self._sums)

    def of(self, chosen: NDArray[np.bool_]) -> dict[str, float]:
        """The metrics in :attr:`drawn` on some of the samples, ``[N]``."""
        return {name: float(values[0]) for name, values in self._of(np.flatnonzero(chosen), None).items()}

    def draws(self, draws: int, seed: int, chosen: NDArray[np.bool_] | None = None) -> dict[str, Numbers]:
        """The metrics in :attr:`drawn` on samples drawn anew: name -> ``[draws]``.

        Args:
            draws: How often.
            seed: Of the draws.
            chosen: Of which samples they are drawn, ``[N]``; of all if not given.
        """
        rows = np.arange(self.size) if chosen is None else np.flatnonzero(chosen)
        found: dict[str, list[Numbers]] = {}
        for often in resamples(len(rows), draws, seed):
            for name, values in self._of(rows, often).items():
                found.setdefault(name, []).append(values)
        return {name: np.concatenate(values) for name, values in found.items()}

    def _of(self, rows: NDArray[np.intp], often: NDArray[np.int64] | None) -> dict[str, Numbers]:
        """The metrics on these rows, each as often as a draw says: name -> ``[b]``; once each if not given."""
        often = np.ones((1, len(rows)), dtype=np.int64) if often is None else often
        found = {name: states.values(rows, often) for name, states in self._sums.items()}
        others = [name for name in self.drawn if name not in found]
        if others:
            outputs, labels = (torch.cat(parts) for parts in zip(*self._shown, strict=True))
            drawn = [self._shown_anew(outputs, labels, np.repeat(rows, counts), others) for counts in often]
            found |= {name: np.array([one[name] for one in drawn]) for name in others}
        return found

    def _shown_anew(
        self, outputs: Tensor, labels: Tensor, rows: NDArray[np.intp], names: list[str]
    ) -> dict[str, float]:
        at = torch.from_numpy(rows)
        self._task.update(self._metrics, outputs[at], Batch(inputs={"input": outputs[at]}, labels=labels[at]))
        values = {name: float(self._metrics[name].compute()) for name in names}
        for metric in self._metrics.values():
            metric.reset()
        return values


class _States:
    """What each sample adds to the states of one metric.

    Args:
        metric: Whose states add up; as it is before it has seen anything.
    """

    def __init__(self, metric: Metric) -> None:
        self._metric, self._form = metric.clone(), additive_states(metric) or {}
        self._columns: list[Tensor] = []
        self._values: list[Tensor] = []

    def add(self, metric: Metric) -> None:
        """One more sample: what the metric, which has seen it alone, has of it."""
        states = additive_states(metric) or {}
        flat = torch.cat([state.flatten().double().cpu() for state in states.values()])
        columns = flat.nonzero()[:, 0]
        self._columns.append(columns)
        self._values.append(flat[columns])

    def values(self, rows: NDArray[np.intp], often: NDArray[np.int64]) -> Numbers:
        """The metric of these rows, each as often as a draw says, ``[b, rows]``: ``[b]``."""
        width = sum(state.numel() for state in self._form.values())
        lengths = torch.tensor([len(columns) for columns in self._columns])
        place = torch.stack([torch.arange(len(lengths)).repeat_interleave(lengths), torch.cat(self._columns)])
        states = torch.sparse_coo_tensor(place, torch.cat(self._values), (len(lengths), width), check_invariants=False)
        chosen = states.index_select(0, torch.from_numpy(rows)).t().coalesce()
        block = max(1, _AT_ONCE // max(width, 1))
        found: list[float] = []
        for start in range(0, len(often), block):
            counts = torch.from_numpy(often[start : start + block]).double().t()
            found += [self._of(column) for column in torch.sparse.mm(chosen, counts).unbind(1)]
        return np.array(found)

    def _of(self, flat: Tensor) -> float:
        states, start = {}, 0
        for name, like in self._form.items():
            part = flat[start : start + like.numel()].view(like.shape)
            states[name] = (part if like.is_floating_point() else part.round()).to(like.dtype)
            start += like.numel()
        return value_of(self._metric, states)
