"""Tokenized samples: flat arrays with offsets, in memory or mapped from files, read without a copy."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped]
import torch
from numpy.typing import NDArray

from distill.core.task import GROUP, PART
from distill.data import arrow
from distill.data.mapped import LARGE, mapped

__all__ = ["Key", "Ragged", "Samples", "main_feature", "read_column"]

Key = tuple[int, int]
"""What a batch sampler asks a data set for: (epoch, row)."""

_BLOCK = 1 << 16


def main_feature(features: Collection[str]) -> str:
    """The feature that every sample has: its tokens, or its picture."""
    return "input_ids" if "input_ids" in features else "image"


class Ragged:
    """Rows of different lengths in one flat array.

    Args:
        values: Every row's elements, one row after the other, ``[N]``.
        offsets: Row i is ``values[offsets[i] : offsets[i + 1]]``, ``[rows + 1]``.
    """

    def __init__(self, values: NDArray[Any], offsets: NDArray[np.int64]) -> None:
        self.values, self.offsets = values, offsets

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, row: int) -> NDArray[Any]:
        return self.values[self.offsets[row] : self.offsets[row + 1]]

    @property
    def lengths(self) -> NDArray[np.int64]:
        return np.diff(self.offsets)

    def count(self, holds: Callable[[NDArray[Any]], NDArray[np.bool_]]) -> int:
        """Of how many values something ``holds``, asked of a block of them at a time: memory is not to hold all."""
        return sum(int(holds(self.values[at : at + _BLOCK]).sum()) for at in range(0, len(self.values), _BLOCK))


def read_column(dataset: Any, name: str, cache: Path) -> Ragged | NDArray[Any]:
    """A column of a ``datasets.Dataset`` as numpy: integers as int32, floats as float32, lists as :class:`Ragged`.

    Args:
        dataset: The rows.
        name: Of the column.
        cache: A path whose name is that of these rows: beside it the values of lists lie that memory is not to hold.
    """
    column = arrow.column(dataset, name)
    chunks = column.chunks
    if arrow.is_bytes(column):
        return _of_bytes(column)
    if not arrow.is_list(column):
        return _compact(column.to_numpy())
    # flatten() and the differences of the offsets hold for slices of a chunk too, where the offsets start late
    flat = [chunk.flatten() for chunk in chunks]
    floating = pa.types.is_floating(column.type.value_type) or any(part.null_count for part in flat)  # null is NaN
    kind = np.dtype(np.float32 if floating else np.int32)
    values = (part.to_numpy(zero_copy_only=False).astype(kind, copy=False) for part in flat)
    lengths = [np.diff(chunk.offsets.to_numpy()) for chunk in chunks]
    offsets = np.concatenate([[0], np.cumsum(np.concatenate(lengths), dtype=np.int64)])
    total = int(offsets[-1])
    if total < LARGE:
        return Ragged(np.concatenate(list(values)), offsets)
    return Ragged(mapped(values, total, kind, cache.with_suffix(f".{name}.npy")), offsets)


def _of_bytes(column: Any) -> Ragged:
    """Files one after the other, ``uint8``; not copied where they lie in one piece."""
    parts = [_parts(chunk.cast(pa.large_binary())) for chunk in column.chunks]
    lengths = np.concatenate([np.diff(ends) for ends, _ in parts])
    files = [data for _, data in parts]
    places = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
    return Ragged(files[0] if len(files) == 1 else np.concatenate(files), places)


def _parts(chunk: Any) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
    """Where the files of a chunk begin and end, and their bytes."""
    _, offsets, values = chunk.buffers()
    ends = np.frombuffer(offsets, np.int64)[chunk.offset : chunk.offset + len(chunk) + 1]
    return ends, np.frombuffer(values or b"", np.uint8)[ends[0] : ends[-1]]


def _compact(values: NDArray[Any]) -> NDArray[Any]:
    return values.astype(np.float32 if np.issubdtype(values.dtype, np.floating) else np.int32, copy=False)


class Samples(torch.utils.data.Dataset[dict[str, Any]]):
    """One split's samples, asked for by ``(epoch, row)``.

    A sample is a dictionary of its features and ``id`` (its row), ``epoch`` and ``seed``: all that a collate
    function may draw random numbers from.

    Args:
        features: Features by name, each with one entry a row; ``input_ids``, where they are, give the lengths.
        seed: The run's seed.
    """

    def __init__(self, features: Mapping[str, Ragged | NDArray[Any]], seed: int) -> None:
        self.features, self.seed = dict(features), seed

    def __len__(self) -> int:
        return len(self.features[main_feature(self.features)])

    def __getitem__(self, key: Key) -> dict[str, Any]:
        epoch, row = key
        sample: dict[str, Any] = {name: values[row] for name, values in self.features.items()}
        return sample | {"id": row, "epoch": epoch, "seed": self.seed}

    @property
    def rows(self) -> int:
        """Rows of the data of which they are made."""
        parts = self.features.get(PART)
        return len(self) if parts is None else int((np.asarray(parts) == 0).sum())

    @property
    def groups(self) -> NDArray[np.int64] | None:
        """A number of every sample, shared by those that are judged together; ``None`` where each is by itself."""
        if GROUP in self.features:
            return np.asarray(self.features[GROUP])
        parts = self.features.get(PART)
        return None if parts is None else np.cumsum(np.asarray(parts) == 0)

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of every sample; 1 of pictures, which are all of one size."""
        if "input_ids" not in self.features:
            return np.ones(len(self), np.int64)
        ids = self.features["input_ids"]
        assert isinstance(ids, Ragged)
        return ids.lengths

    @property
    def fingerprint(self) -> str:
        """A hash of every value of every feature."""
        digest = hashlib.blake2b(digest_size=16)
        for name, values in sorted(self.features.items()):
            arrays = (values.values, values.offsets) if isinstance(values, Ragged) else (values,)
            for array in arrays:
                digest.update(f"{name} {array.dtype} {array.shape}".encode())
                digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()

    @cached_property
    def checksum(self) -> str:
        """The same for the same samples in any order: the sum of each one's hash, modulo 2¹²⁸."""
        columns, total = sorted(self.features.items()), 0
        for row in range(len(self)):
            digest = hashlib.blake2b(digest_size=16)
            for name, values in columns:
                value = np.asarray(values[row])
                digest.update(f"{name} {value.dtype} {value.shape}".encode() + value.tobytes())
            total += int.from_bytes(digest.digest())
        return f"{total % 2**128:032x}"
