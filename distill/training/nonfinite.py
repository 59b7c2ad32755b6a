"""Stopping a run whose loss is no longer a number, without waiting for the device at every step."""

from __future__ import annotations

import torch
from torch import Tensor

from distill.core.signals import Batch
from distill.core.utils.errors import TrainingError

__all__ = ["FiniteWatch"]


class FiniteWatch:
    """Watches the terms of every step for NaN and infinity.

    On the CPU a bad term is reported before its gradient is taken. On CUDA the terms travel to the host beside
    the computation and are looked at one step later, and always before a checkpoint is written.
    """

    def __init__(self) -> None:
        self._pending: tuple[Tensor, torch.cuda.Event, list[str], Batch] | None = None

    def watch(self, terms: dict[str, Tensor], batch: Batch) -> None:
        """Look at the terms of one step, and at those still on their way from the step before.

        Raises:
            TrainingError: naming the step, the term and the samples.
        """
        self.check()
        values = torch.stack([term.float() for term in terms.values()])
        if values.device.type != "cuda":
            self._raise_if_bad(values, list(terms), batch)
            return
        host = torch.empty(values.shape, pin_memory=True).copy_(values, non_blocking=True)
        arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
        arrived.record()
        self._pending = (host, arrived, list(terms), batch)

    def check(self) -> None:
        """Look at what has not been looked at yet.

        Raises:
            TrainingError: as :meth:`watch`.
        """
        if self._pending is not None:
            host, arrived, names, batch = self._pending
            self._pending = None
            arrived.synchronize()
            self._raise_if_bad(host, names, batch)

    @staticmethod
    def _raise_if_bad(values: Tensor, names: list[str], batch: Batch) -> None:
        finite = torch.isfinite(values)
        if finite.all():
            return
        bad = ", ".join(
            f"{n} = {v}" for n, v, ok in zip(names, values.tolist(), finite.tolist(), strict=True) if not ok
        )
        samples = "" if batch.ids is None else f"; samples of the batch: {batch.ids}"
        raise TrainingError(
            f"the loss is not finite at step {batch.step}: {bad}{samples}. "
            "The last checkpoint is from before this step. Look at its samples, lower the learning rate, "
            "or clip the gradient (trainer.gradient_clip_val)."
        )
