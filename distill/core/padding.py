"""Samples of different lengths as one rectangular tensor."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["Side", "pad", "real_positions", "side_by_side"]


Side = Literal["right", "left"]
"""Where the padding of a batch is."""


def pad(samples: Sequence[dict[str, Any]], name: str, value: int, side: Side = "right") -> Tensor:
    """The feature ``name`` of every sample, padded on ``side`` with ``value``: int64 ``[B, T]``, T at least 1."""
    rows = [sample[name] for sample in samples]
    padded = np.full((len(rows), max(1, *map(len, rows))), value, np.int64)
    for i, row in enumerate(rows):
        start = padded.shape[1] - len(row) if side == "left" else 0
        padded[i, start : start + len(row)] = row
    return torch.from_numpy(padded)


def real_positions(samples: Sequence[dict[str, Any]], side: Side = "right") -> NDArray[np.bool_]:
    """Which positions of the padded ``input_ids`` hold a token: ``[B, T]``."""
    lengths = np.array([len(sample["input_ids"]) for sample in samples])
    real: NDArray[np.bool_] = np.arange(lengths.max()) < lengths[:, None]
    return real[:, ::-1].copy() if side == "left" else real


def side_by_side(tokens_BS: Tensor, other_BT: Tensor, value: int) -> Tensor:
    """``other``, with one more column of ``value`` where it has as many as ``tokens``: a size then says which it is."""
    if other_BT.shape[1] != tokens_BS.shape[1]:
        return other_BT
    return torch.nn.functional.pad(other_BT, (0, 1), value=value)
