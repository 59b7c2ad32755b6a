"""Signals on disk by sample: files of tensors that are mapped into memory, each with the samples of one range."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from distill.models.teachers.recorded.index import Plan, shard_name

__all__ = ["Kept", "ShardReader", "pack", "rows_of"]

Kept = dict[str, Tensor]
"""Tensors by name, each ``[N, ...]`` with a row for every position that counts."""


class _Sample(NamedTuple):
    digest: Tensor
    rows: Kept


def pack(samples: Sequence[tuple[int, Kept]], metadata: dict[str, str]) -> bytes:
    """A shard's file.

    Args:
        samples: Of each sample, in the order of their ids, the digest of its inputs, and what was recorded.
        metadata: Kept in its header.
    """
    counts = [len(next(iter(rows.values()))) for _, rows in samples]
    tensors = {f"rows.{name}": torch.cat([rows[name] for _, rows in samples]) for name in samples[0][1]}
    tensors["digests"] = torch.tensor([digest for digest, _ in samples])
    tensors["offsets"] = torch.tensor([0, *counts]).cumsum(0)
    return save({name: tensor.contiguous() for name, tensor in tensors.items()}, metadata)


class ShardReader:
    """The samples of a recording, by their ids.

    Files are mapped when a sample of theirs is first asked for, and read by the page.

    Args:
        folder: The recording's.
        plan: Which samples each shard has.
    """

    def __init__(self, folder: Path, plan: Plan) -> None:
        self._folder, self._plan = folder, plan
        self._shards: dict[int, dict[str, Tensor]] = {}

    def read(self, ids: Sequence[int]) -> tuple[Kept, list[int], Tensor]:
        """What was recorded of some samples, one after the other.

        Returns:
            The rows, how many each sample has, and the digest of each one's inputs.

        Raises:
            IndexError: if there is no such sample.
        """
        samples = [self._sample(i) for i in ids]
        names = samples[0].rows
        rows = {name: torch.cat([sample.rows[name] for sample in samples]) for name in names}
        counts = [len(next(iter(sample.rows.values()))) for sample in samples]
        return rows, counts, torch.stack([sample.digest for sample in samples])

    def _sample(self, i: int) -> _Sample:
        if not 0 <= i < self._plan.samples:
            raise IndexError(i)
        number, place = divmod(i, self._plan.per_shard)
        if number not in self._shards:
            self._shards[number] = self._mapped(number)
        shard = self._shards[number]
        first, last = shard["offsets"][place : place + 2].tolist()
        rows = {
            name.removeprefix("rows."): tensor[first:last] for name, tensor in shard.items() if name.startswith("rows.")
        }
        return _Sample(shard["digests"][place], rows)

    def _mapped(self, number: int) -> dict[str, Tensor]:
        with safe_open(str(self._folder / shard_name(number)), "pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (it is no mapping)


def rows_of(tensors: Mapping[str, Tensor], counts: Sequence[int]) -> list[Kept]:
    """Rows of a batch, by sample."""
    split = {name: torch.split(tensor, list(counts)) for name, tensor in tensors.items()}
    return [{name: parts[place] for name, parts in split.items()} for place in range(len(counts))]
