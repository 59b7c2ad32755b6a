"""Loaders of batches whose position is the trainer's, and whose workers end with the process that they work for."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from pytorch_lightning import Trainer
from torch.utils.data import DataLoader

from distill.core.internals.lightning import distributes_samples
from distill.core.signals import ROUTE, Batch
from distill.core.task import TRAINED, TextTask
from distill.core.utils.errors import UserError
from distill.data.batches import EvaluationBatches, TrainingBatches
from distill.data.features import Samples

__all__ = ["Collate", "Loader", "heed_parent_alone", "make_loader", "ranks_of"]


def heed_parent_alone(worker: int) -> None:
    """Have this process, a loader's worker, end on SIGTERM only where the process that it works for has sent it, and
    never on SIGINT.

    A scheduler tells all processes of a job to stop, and a terminal interrupts them all. The one that trains finishes
    its step or its validation first, and still needs batches for that.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if not hasattr(signal, "sigwaitinfo"):  # macOS
        return
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})  # a blocked one is not ignored, but kept
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})

    def wait() -> None:
        while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
            pass
        os._exit(0)

    threading.Thread(target=wait, daemon=True).start()


@contextmanager
def _workers_undisturbed() -> Iterator[None]:
    """Keep signals that ask to stop from the workers that are started here until :func:`heed_parent_alone` has come:
    before it they would end on them, and with them the run."""
    if not hasattr(signal, "sigwaitinfo"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class Loader(DataLoader[Any]):
    """A ``DataLoader`` that asks its sampler for the position only when the first batch is fetched.

    Lightning makes the iterator in ``setup_data``, which ``estimated_stepping_batches`` calls before the
    progress of a checkpoint is restored, and keeps it. Worker processes would by then have fetched from the
    front of epoch 0.
    """

    def __iter__(self) -> Any:
        with _workers_undisturbed():
            batches = super().__iter__()
        yield from batches

    def state_dict(self) -> dict[str, Any]:
        """Nothing: the position is the trainer's. That it exists tells Lightning that the loader can resume."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing to do (see :meth:`state_dict`)."""


@dataclass(frozen=True)
class Collate:
    """The task's collate function with its tokenizer, for workers to take along; and whether samples are trained on."""

    task: TextTask
    tokenizer: Any
    trained: bool = False

    def __call__(self, features: list[dict[str, Any]]) -> Batch:
        if self.trained:
            features = [sample | {TRAINED: True} for sample in features]
        batch = self.task.collate(features, self.tokenizer)
        if ROUTE in features[0]:
            batch.extras[ROUTE] = torch.tensor([int(sample[ROUTE]) for sample in features])
        return batch


def make_loader(
    samples: Samples, batches: TrainingBatches | EvaluationBatches, collate: Collate, workers: int
) -> Loader:
    """The loader of these batches.

    Args:
        samples: Asked for by the keys that ``batches`` yields.
        batches: Of one rank.
        collate: Makes a batch of samples.
        workers: Processes that make batches; 0 makes them in this one.
    """
    return Loader(
        samples,
        batch_sampler=batches,
        collate_fn=collate,
        num_workers=workers,
        worker_init_fn=heed_parent_alone,
        # Started otherwise, a worker would be sent all samples, and would not be this process's own child.
        multiprocessing_context="fork" if workers and sys.platform == "linux" else None,
        persistent_workers=workers > 0,
        pin_memory=torch.cuda.is_available(),
    )


def ranks_of(trainer: Trainer | None) -> tuple[int, int]:
    """This rank, and of how many; 0 of 1 without a trainer.

    Raises:
        UserError: if Lightning would shard once more the batches that are each rank's own.
    """
    if trainer is None:
        return 0, 1
    if trainer.world_size > 1 and distributes_samples(trainer):
        raise UserError(
            "these batches are sharded over the ranks already",
            key="trainer.use_distributed_sampler",
            value=True,
            hint="set it to false",
        )
    return trainer.global_rank, trainer.world_size
