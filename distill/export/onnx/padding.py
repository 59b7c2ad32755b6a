"""On which side an exported model may find the padding of a text."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from distill.core.document_masking import FAILURES, distance
from distill.core.signals import DECODER_INPUT
from distill.core.utils.errors import UserError

__all__ = ["SIDES", "count_positions", "padded", "said", "sides"]

SIDES = ("right", "left")

_TOKENS, _PADDING = 8, 3
_ERROR = 1e-3  # max |a - b| / max |a|: far above kernels' last digits, far below one position more or less


def count_positions(attention_mask_BT: Tensor) -> Tensor:
    """The place of each token among those of its text, from 0: ``[B, T]``. Padding has any place that there is."""
    return (attention_mask_BT.cumsum(1) - 1).clamp(min=0)


@torch.no_grad()
def sides(predict: Callable[[dict[str, Tensor]], Tensor], inputs: Mapping[str, Tensor], model: nn.Module) -> list[str]:
    """The sides on which a text may be padded and has the logits that it has alone.

    Args:
        predict: Named inputs to logits.
        inputs: Of text, with an ``attention_mask``; a few tokens of the first row are tried.
        model: Tells the padding's id.

    Returns:
        Those of :data:`SIDES` that do no harm; the right one, where models are trained, if that cannot be tried.
    """
    row = _few(inputs)
    try:
        alone = predict(row)
    except (*FAILURES, UserError):  # of so few tokens
        return ["right"]
    return [side for side in SIDES if _same(predict, row, alone, side, _padding_id(model))]


def said(sides: list[str]) -> list[str]:
    """What must be said of an export that is not to be padded anyhow: a line, or none."""
    if sides:
        return []
    return ["the logits of a text depend on the padding beside it, in this file too: run texts of one length together"]


def padded(inputs: Mapping[str, Tensor], side: str, number: int, count: int = _PADDING) -> dict[str, Tensor]:
    """``inputs`` with ``count`` more positions on ``side``, which hold the padding's id and are masked."""
    ends = (count, 0) if side == "left" else (0, count)
    fill = {"input_ids": number}
    return {
        name: tensor if name == DECODER_INPUT else nn.functional.pad(tensor, ends, value=fill.get(name, 0))
        for name, tensor in inputs.items()
    }


def _few(inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The first tokens of the first row, and its last one, which may be an end that the model looks for."""
    real = inputs["attention_mask"][:1].bool()
    decoder = {name: tensor[:1] for name, tensor in inputs.items() if name == DECODER_INPUT}
    row = {name: tensor[:1][real][None] for name, tensor in inputs.items() if name not in decoder}
    if row["input_ids"].shape[1] > _TOKENS:
        row = {name: torch.cat([tensor[:, : _TOKENS - 1], tensor[:, -1:]], 1) for name, tensor in row.items()}
    return row | decoder


def _same(
    predict: Callable[[dict[str, Tensor]], Tensor], row: dict[str, Tensor], alone: Tensor, side: str, number: int
) -> bool:
    length = row["input_ids"].shape[1]
    try:
        found = predict(padded(row, side, number))
    except (*FAILURES, UserError):
        return False
    for axis in range(1, found.dim()):  # that of the positions, wherever it is
        if found.shape[axis] != alone.shape[axis]:
            found = found.narrow(axis, found.shape[axis] - length if side == "left" else 0, length)
    return distance(found, alone) <= _ERROR * float(alone.abs().max())


def _padding_id(model: nn.Module) -> int:
    config: Any = getattr(model, "config", None)
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    number = getattr(text, "pad_token_id", None)
    return number if isinstance(number, int) else 0
