"""The first batches of a loader, and how a run's student is started by those of its training data."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, cast

import torch
from pytorch_lightning import LightningModule, Trainer
from torch.utils.data import DataLoader

from distill.compression.quantization.layers import QuantizedLayer
from distill.compression.quantization.lifecycle import attend, find_ranged, follow
from distill.compression.quantization.observers import unseen
from distill.compression.quantization.starts.begin import start_weights
from distill.compression.quantization.starts.settings import Start
from distill.core.document_masking import still
from distill.core.signals import Batch
from distill.core.step_callback import step_callbacks
from distill.core.task import Task
from distill.core.trained_module import batch_of, forward_of, require_student
from distill.core.utils.errors import UserError
from distill.data.batches import TrainingBatches

__all__ = ["first_batches", "start_in_training"]


def first_batches(loader: Iterable[Any], task: Task, samples: int, device: torch.device) -> list[Batch]:
    """The first batches of ``loader``, until they hold so many samples."""
    return _first(loader, task.batch, samples, device)


def _first(loader: Iterable[Any], read: Callable[[Any], Batch], samples: int, device: torch.device) -> list[Batch]:
    batches: list[Batch] = []
    for raw in loader:
        batches.append(read(raw).to(device))
        if sum(batch.size for batch in batches) >= samples:
            break
    return batches


def _from_the_front(loader: Any, key: str) -> Iterable[Any]:
    """The batches of a loader from its first on, while another pass over it goes on.

    Raises:
        UserError: if there are several, or it can be passed over once.
    """
    if isinstance(loader, (Mapping, Sequence, Iterator)):
        problem, hint = "looks at the first training batches, of one loader", "give the trainer one DataLoader"
        raise UserError(problem, key=key, value=type(loader).__name__, hint=hint)
    sampler = getattr(loader, "batch_sampler", None)
    if isinstance(sampler, TrainingBatches):
        sampler = copy.copy(sampler)
        sampler.position = int  # 0: the same batches, wherever the run is
    # Workers that persist have one pass at a time.
    if isinstance(sampler, TrainingBatches) or (isinstance(loader, DataLoader) and sampler and loader.num_workers):
        return DataLoader(loader.dataset, batch_sampler=sampler, collate_fn=loader.collate_fn)
    return cast(Iterable[Any], loader)


def _on_every_rank(count: int, device: torch.device) -> int:
    """The least of the ranks' counts: for each batch they reduce what they saw, and all must come."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return count
    least = torch.tensor(count, device=device)
    torch.distributed.all_reduce(least, torch.distributed.ReduceOp.MIN)
    return int(least)


@torch.no_grad()
def _observe_anew(layers: Iterable[QuantizedLayer], batches: Sequence[Batch], run: Callable[[Batch], Any]) -> None:
    """Replace the ranges that were observed before channels were scaled by those of these batches."""
    static = [layer for layer in layers if layer.static and layer.ranged]
    for layer in static:
        for seen in (layer.observed_range, *(point.observed_range for point in layer.points)):
            seen.copy_(unseen(seen.device))
        layer.observing = layer.training = True
    find_ranged(static)
    for batch in batches:
        attend(static, batch.positions)
        run(batch)
        follow(static)


def start_in_training(
    trainer: Trainer, pl_module: LightningModule, layers: Mapping[str, QuantizedLayer], start: Start, key: str
) -> None:
    """Start the student's quantized layers by the first batches of the training data, the same in every such run.

    What other callbacks made of its weights before (averages) they make anew, and so are ranges of scaled channels.

    Args:
        trainer: Of the run.
        pl_module: With the student, whose layers are in ``float`` mode.
        layers: By name.
        start: How.
        key: Where the settings stand.

    Raises:
        UserError: if the data are read by no single ``DataLoader``.
    """
    student = require_student(pl_module, "a start")
    batches: list[Batch] = []
    with torch.random.fork_rng(), still(student):
        torch.manual_seed(0)  # of a loader that shuffles: what it gives next does not change for it
        if start.reads_inputs:
            loader = _from_the_front(trainer.train_dataloader, key)
            batches = _first(loader, partial(batch_of, pl_module), start.samples, pl_module.device)
            del batches[_on_every_rank(len(batches), pl_module.device) :]

        def forward(model: Any, batch: Batch) -> Any:
            with trainer.precision_plugin.forward_context():
                return forward_of(pl_module, model, batch)

        start_weights(student, layers, start, batches, forward)
        if start.equalizer is not None:
            _observe_anew(layers.values(), batches, partial(forward, student))
    for callback in step_callbacks(trainer):
        callback.on_weights_set(trainer, pl_module)
