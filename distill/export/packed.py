"""Packed documents as rows of their own."""

from __future__ import annotations

import torch
from torch import Tensor

from distill.signals import IGNORE, Batch

__all__ = ["apart"]


def apart(batch: Batch) -> Batch:
    """The batch with a row for each document, where the documents of one row are hidden from each other.

    That is where it has position ids, which begin at 0 with each of them. An exported model reads neither these nor a
    mask for each document; a document that stands alone is computed as it was in its row. Other batches stay as they
    are.

    Args:
        batch: Of token ids ``[B, T]``.
    """
    positions_BT = batch.inputs.get("position_ids")
    if positions_BT is None:
        return batch
    ids_BT = batch.inputs["input_ids"]
    real_BT = torch.ones_like(ids_BT, dtype=torch.bool) if batch.tokens is None else batch.tokens
    rows = ((positions_BT == 0) & real_BT).flatten().cumsum(0)[real_BT.flatten()] - 1
    columns = positions_BT[real_BT]
    shape = int(rows.max()) + 1, int(columns.max()) + 1

    def spread(tensor: Tensor, fill: int) -> Tensor:
        if tensor.shape[:2] != ids_BT.shape:
            return tensor
        out = tensor.new_full((*shape, *tensor.shape[2:]), fill)
        out[rows, columns] = tensor[real_BT]
        return out

    return Batch(
        inputs={"input_ids": spread(ids_BT, 0)},
        labels=None if batch.labels is None else spread(batch.labels, IGNORE),
        mask=None if batch.mask is None else spread(batch.mask, False),
        tokens=spread(real_BT, False),
        extras={name: spread(tensor, 0) for name, tensor in batch.extras.items()},
    )
