"""Packed documents as rows of their own."""

from __future__ import annotations

import torch
from torch import Tensor

from distill.core.signals import IGNORE, Batch

__all__ = ["unpack"]


def unpack(batch: Batch) -> list[Batch]:
    """The batch with a row for each document, where the documents of one row are hidden from each other.

    That is where it has position ids, which begin at 0 with each of them. An exported model reads neither these nor a
    mask for each document; a document that stands alone is computed as it was in its row. Other batches stay as they
    are.

    Documents of like lengths are a batch: of none more than half is padding, so that one long document beside many
    short ones takes no more than twice the memory that they took in their rows.

    Args:
        batch: Of token ids ``[B, T]``.
    """
    positions_BT = batch.inputs.get("position_ids")
    if positions_BT is None:
        return [batch]
    ids_BT = batch.inputs["input_ids"]
    real_BT = torch.ones_like(ids_BT, dtype=torch.bool) if batch.tokens is None else batch.tokens
    documents_N = ((positions_BT == 0) & real_BT).flatten().cumsum(0)[real_BT.flatten()] - 1
    sizes = torch.tensor([length.bit_length() for length in documents_N.bincount().tolist()])
    sizes_N = sizes.to(documents_N.device)[documents_N]
    return [_of_documents(batch, real_BT, documents_N, sizes_N == size) for size in torch.unique(sizes).tolist()]


def _of_documents(batch: Batch, real_BT: Tensor, documents_N: Tensor, chosen_N: Tensor) -> Batch:
    """A row for each document of the chosen ones of N real positions."""
    _, rows = torch.unique(documents_N[chosen_N], return_inverse=True)
    columns = batch.inputs["position_ids"][real_BT][chosen_N]
    shape = int(rows.max()) + 1, int(columns.max()) + 1

    def spread(tensor: Tensor, fill: int) -> Tensor:
        if tensor.shape[:2] != real_BT.shape:
            return tensor
        out = tensor.new_full((*shape, *tensor.shape[2:]), fill)
        out[rows, columns] = tensor[real_BT][chosen_N]
        return out

    return Batch(
        inputs={"input_ids": spread(batch.inputs["input_ids"], 0)},
        labels=None if batch.labels is None else spread(batch.labels, IGNORE),
        mask=spread(real_BT if batch.mask is None else batch.mask, False),  # rows are padded that were not
        tokens=spread(real_BT, False),
        extras={name: spread(tensor, 0) for name, tensor in batch.extras.items()},
    )
