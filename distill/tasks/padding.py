"""Samples of different lengths as one rectangular tensor."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["pad", "real_positions"]


def pad(samples: Sequence[dict[str, Any]], name: str, value: int) -> Tensor:
    """The feature ``name`` of every sample, padded on the right with ``value``: int64 ``[B, T]``."""
    rows = [sample[name] for sample in samples]
    padded = np.full((len(rows), max(map(len, rows))), value, np.int64)
    for i, row in enumerate(rows):
        padded[i, : len(row)] = row
    return torch.from_numpy(padded)


def real_positions(samples: Sequence[dict[str, Any]]) -> NDArray[np.bool_]:
    """Which positions of the padded ``input_ids`` hold a token: ``[B, T]``."""
    lengths = np.array([len(sample["input_ids"]) for sample in samples])
    real: NDArray[np.bool_] = np.arange(lengths.max()) < lengths[:, None]
    return real
