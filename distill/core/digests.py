"""A number for each sample of a batch that tells its inputs from others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

__all__ = ["input_digests"]

_WORDS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def input_digests(
    inputs: Mapping[str, Tensor], tokens_BT: Tensor | None = None, others: Sequence[Tensor] = ()
) -> Tensor:
    """A 64-bit digest of each sample's inputs, ``[B]``, int64, on their device.

    Of the bits x_i of a sample's numbers sum over i of x_i * c_i mod 2^64, with coefficients c_i that are well mixed
    and odd: not against an adversary, but any other crop, mask or noise gives another sum. Padding takes no part, so
    that a sample has one digest in batches of any length, padded on either side.

    Args:
        inputs: Tensors ``[B, ...]``.
        tokens_BT: Which positions are real, boolean; the inputs' attention mask, if there is one, where it is ``None``,
            and all positions of ``input_ids`` where there is none.
        others: The same of other texts of a sample, each of another length.
    """
    mask = inputs.get("attention_mask")
    if mask is not None and mask.dim() == 2:  # a batch without padding may lack it
        inputs = {name: tensor for name, tensor in inputs.items() if name != "attention_mask"}
        tokens_BT = mask.bool() if tokens_BT is None else tokens_BT
    elif tokens_BT is None and (ids := inputs.get("input_ids")) is not None and ids.dim() == 2:
        tokens_BT = torch.ones_like(ids, dtype=torch.bool)
    total: Tensor | None = None
    for place, tensor in enumerate(inputs.values()):
        words = tensor.view(_WORDS[tensor.element_size()]) if tensor.is_floating_point() else tensor
        real = next((one for one in (tokens_BT, *others) if one is not None and words.shape[:2] == one.shape), None)
        if real is not None:
            digests = _of_tokens(words.long()[..., None].flatten(2), real)
        else:
            digests = (words.long().flatten(1) * _coefficients(words[0].numel(), words.device)).sum(1)
        digests = _mixed(digests + place)
        total = digests if total is None else total + digests
    assert total is not None
    return total


def _of_tokens(words_BTF: Tensor, tokens_BT: Tensor) -> Tensor:
    """Of the real positions, each counted from the first of them."""
    positions_BT = _mixed(
        (words_BTF * _coefficients(words_BTF.shape[2], words_BTF.device)).sum(2) + 1
    )  # which makes no 0 of a 0
    return (positions_BT * _mixed(tokens_BT.cumsum(1)) * tokens_BT).sum(1)


def _coefficients(count: int, device: torch.device) -> Tensor:
    return _mixed(torch.arange(1, count + 1, device=device)) | 1


def _mixed(x: Tensor) -> Tensor:
    """The finalizer of SplitMix64 (Steele, Lea, Flood 2014), elementwise; int64 wraps around."""
    for shift, factor in ((30, -0x40A7B892E31B1A47), (27, -0x6B2FB644ECCEEE15)):
        x = (x ^ _shifted(x, shift)) * factor
    return x ^ _shifted(x, 31)


def _shifted(x: Tensor, by: int) -> Tensor:
    """To the right, filling up with zeros as for unsigned numbers."""
    return (x >> by) & ((1 << (64 - by)) - 1)
