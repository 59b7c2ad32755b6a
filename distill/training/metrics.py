"""What training logs: the terms of the objective, and the names of all metrics of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from distill.core.signals import Batch
from distill.losses import DistillationLoss

__all__ = ["StepSums", "logged_names", "term_metrics"]


class StepSums:
    """Sums of the objective and of its terms over the predictions of a step's micro-batches, as far as these came."""

    def __init__(self) -> None:
        self._step, self._sums = -1, torch.zeros(0)

    def add(self, objective: Tensor, terms: Mapping[str, Tensor], batch: Batch) -> Tensor:
        """The sums with those of a micro-batch, and last how many predictions these are, ``[terms + 2]``.

        Args:
            objective: Its mean over the micro-batch's predictions.
            terms: Name of a loss -> its mean.
            batch: With its step set: another one begins anew.
        """
        means = torch.stack([objective.detach().float(), *(mean.float() for mean in terms.values())])
        sums = torch.cat([means * batch.count, batch.count[None]])
        self._sums = self._sums + sums if batch.step == self._step else sums
        self._step = batch.step
        return self._sums


def term_metrics(losses: Sequence[DistillationLoss], sums: Tensor, batch: Batch, world_size: int = 1) -> dict[str, Any]:
    """``train/loss``, and each term raw (``train/NAME``) and as it is weighted (``train/NAME_weighted``).

    They are means over the predictions of all ranks and of the step's micro-batches so far: at its last, of all.

    Args:
        losses: The terms.
        sums: What :meth:`StepSums.add` returns, in the order of ``losses``.
        batch: With its step set, which the schedules of the weights read.
        world_size: Ranks, all of which call this.
    """
    if world_size > 1:
        sums = sums.clone()
        torch.distributed.all_reduce(sums)
    means = sums[:-1] / sums[-1].clamp(min=1)
    values: dict[str, Any] = {"train/loss": means[0]}
    for loss, mean in zip(losses, means[1:], strict=True):
        values[f"train/{loss.name}"] = mean
        values[f"train/{loss.name}_weighted"] = loss.weight(batch.step, batch.total_steps) * mean
    return values


def logged_names(
    losses: Sequence[DistillationLoss], scores: Sequence[str], teacher: bool, on_policy: bool = False
) -> list[str]:
    """The names of all metrics that a run logs, those of callbacks left out.

    Args:
        losses: The terms of its objective.
        scores: The monitored metric, then all metrics of the task; none where the run is not validated.
        teacher: Whether there is one.
        on_policy: Whether the student writes some of the batches.
    """
    terms = [name for loss in losses for name in (f"train/{loss.name}", f"train/{loss.name}_weighted")]
    names = ["train/loss", "loss", *terms, "train/learning_rate", *(["train/on_policy"] if on_policy else [])]
    if not scores:
        return names
    monitor, *metrics = scores
    prefixes = ("val/", *(("teacher/",) if teacher else ()))
    names += [monitor, *(f"{prefix}{name}" for prefix in prefixes for name in metrics)]
    return names + (["val/agreement"] if teacher else [])
