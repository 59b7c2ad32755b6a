"""Whether a model reads the padding beside a text."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from distill.core.document_masking import FAILURES, distance, still, tolerance
from distill.core.signals import Request
from distill.core.utils.errors import UserError
from distill.data import TextData
from distill.data.features import Samples
from distill.export.onnx.convert import frozen_layers, without_quantization
from distill.tasks import TextTask

__all__ = ["meet_padding", "padding_error", "two_lengths"]

_log = logging.getLogger(__name__)


def padding_error(task: TextTask, model: nn.Module, short: Any, long: Any, tokenizer: Any) -> float | None:
    """How far the logits of a sample are from those that it has alone, where it is padded: max |a - b| / max |a|.

    Args:
        task: Pads and reads a batch.
        model: Not changed.
        short: The features of a sample.
        long: Those of a longer one.
        tokenizer: Of the data.

    Returns:
        0 where kernels of other shapes alone may account for it; ``None`` where the model does not run here.
    """
    with still(model), torch.no_grad():
        try:
            alone, beside = (_logits(task, model, samples, tokenizer) for samples in ([short], [short, long]))
            if task.outputs == "positions":
                beside = beside[..., : alone.shape[-1]]
            elif alone.dim() > 2:
                width = min(alone.shape[1], beside.shape[1])
                alone, beside = alone[:, :width], beside[:, :width]
            error = distance(alone[0], beside[0])
            return 0.0 if error <= tolerance(model, alone) else error / float(alone.abs().max())
        except (*FAILURES, UserError):
            return None


def _logits(task: TextTask, model: nn.Module, samples: list[Any], tokenizer: Any) -> Tensor:
    batch = task.collate(samples, tokenizer).to(next(model.parameters()).device)
    found = task.forward(model, batch, Request(logits=True)).logits
    assert found is not None
    return found


def _error(task: TextTask, model: nn.Module, pair: tuple[Any, Any], tokenizer: Any) -> float:
    """:func:`padding_error`, of a quantized model in float: rounding makes steps of kernels' last digits."""
    error = padding_error(task, model, *pair, tokenizer)
    if error and frozen_layers(model):
        error = padding_error(task, without_quantization(model), *pair, tokenizer)
    return error or 0.0


def two_lengths(samples: Samples | None) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """The shortest of the first samples and the next longer one; ``None`` where all are of one length."""
    lengths = [] if samples is None else samples.lengths[:64].tolist()
    longer = [length for length in lengths if length > min(lengths)]
    if samples is None or not longer:
        return None
    return samples[0, lengths.index(min(lengths))], samples[0, lengths.index(min(longer))]


def meet_padding(models: Sequence[tuple[str, nn.Module]], task: TextTask, data: TextData) -> None:
    """Have the padding be where no model reads it, or warn where what one says of a text depends on it.

    It is on the right, as decoders and encoders alike compute the same there. XLNet classifies at the last position, so
    its texts are padded on the left. FNet, ConvBERT and others read it on either side. The tokenizer pads on that side
    from now on, and is saved so.

    Args:
        models: Each with its key.
        task: Not one of generation, for which tokenizers pad on the left. It gets its ``side``.
        data: Its samples are tried, and it has the tokenizer.
    """
    pair = two_lengths(next(iter(data.tokenized.values()), None))  # of a split that has been read
    errors: dict[str, list[float]] = {}
    for side in task.sides if pair else ():
        assert pair is not None
        task.side = side
        errors[side] = [_error(task, model, pair, data.tokenizer) for _, model in models]
        if not any(errors[side]):
            break
    else:
        task.side = "right"
    data.task.side = data.tokenizer.padding_side = task.side
    for (who, model), error in zip(models, errors.get(task.side, ()), strict=False):
        if error:
            _log.warning(
                "%s (%s) reads the padding beside a text: its logits change by %.2g of the largest, so scores depend "
                "on the batch that a text is in; with batch_size and eval_batch_size of 1 they do not",
                who,
                type(model).__name__,
                error,
            )
