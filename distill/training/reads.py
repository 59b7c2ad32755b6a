"""Whether a model reads the batches of its task, found by trying it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from distill.core.internals.torch import BatchNorm
from distill.core.internals.transformers import attention_in_use
from distill.core.signals import DECODER_INPUT, Batch, Request
from distill.core.task import TextTask
from distill.core.utils.errors import UserError, first_line

__all__ = ["check_reads", "read"]


def check_reads(who: str, model: nn.Module, task: TextTask, tokenizer: Any, request: Request) -> None:
    """Refuse a model that cannot read two padded rows.

    Args:
        who: The model's key.
        model: Of transformers; others are taken at their word.
        task: Makes the batch.
        tokenizer: The data's.
        request: What the losses read of the model.

    Raises:
        UserError: saying what the model stumbled over, or that its logits are not of the task's shape.
    """
    if not isinstance(model, PreTrainedModel) or not _runs_here(model):
        return
    rows = _rows(task, tokenizer)
    if rows is None:
        return
    trains = model.training and not any(isinstance(m, BatchNorm) for m in model.modules())
    with _still(model), torch.no_grad():
        if trains:  # some read other batches in training than they do elsewhere
            read(who, model.train(), task, task.collate(rows, tokenizer), request)
            model.train(False)
        read(who, model, task, task.collate(rows, tokenizer), request)


def _runs_here(model: PreTrainedModel) -> bool:
    """Whether the host has kernels for it; half precision and fused attention may be a device's alone."""
    kind = attention_in_use(model.config)
    return kind in (None, "eager", "sdpa") and all(p.dtype == torch.float32 for p in model.parameters())


def _rows(task: TextTask, tokenizer: Any) -> list[dict[str, Any]] | None:
    """What the task tries as its samples; ``None`` where a task of one's own takes no such rows."""
    try:
        encoded = task.encode(tokenizer, 16)(task.tried())
        samples = [{name: np.asarray(values[i]) for name, values in encoded.items()} for i in range(2)]
    except Exception:  # whatever it does with columns that it did not expect
        return None
    return [sample | {"id": i, "epoch": 0, "seed": 0} for i, sample in enumerate(samples)]


def read(who: str, model: nn.Module, task: TextTask, batch: Batch, request: Request) -> Tensor:
    """The logits of ``batch``.

    Raises:
        UserError: if the model stumbles over it, or they are not of its shape.
    """
    try:
        found = task.forward(model, batch, request | Request(logits=True)).logits
    except UserError:
        raise
    except Exception as error:  # modelling files raise whatever they stumble over
        reason = f"{type(error).__name__}: {first_line(error)}"
        problem = f"this {type(model).__name__} cannot read a batch of {task.name} ({reason})"
        hint = "name a model that was made for the task, or correct its config.json"
        raise UserError(problem, key=who, hint=hint) from error
    rows, ids = batch.size, batch.inputs.get("input_ids")
    wanted = [(rows,)] if ids is None else [(rows,), tuple(ids.shape)]
    if DECODER_INPUT in batch.inputs:
        ids = batch.inputs[DECODER_INPUT]
        wanted = [tuple(ids.shape)]
    if found is None or tuple(found.shape[:-1]) not in wanted:
        shape = "none" if found is None else list(found.shape)
        of = "" if ids is None else f" of {ids.shape[1]} tokens"
        problem = f"the logits of this {type(model).__name__} are {shape} for {rows} rows{of}"
        raise UserError(problem, key=who, hint="name a model that was made for the task")
    return found


@contextmanager
def _still(model: nn.Module) -> Iterator[None]:
    """In eval mode, and with the generators as they were afterwards."""
    training = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        for module, mode in training.items():
            module.training = mode
