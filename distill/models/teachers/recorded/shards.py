"""Signals on disk by sample: files of tensors that are mapped into memory, each with the samples of one range."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from distill.core.signals import Batch
from distill.models.teachers.recorded.index import Plan, shard_name

__all__ = ["STREAM", "Kept", "ShardReader", "counts_of", "pack"]

Kept = dict[str, Tensor]
"""Tensors by name, all but :data:`STREAM` ``[N, ...]`` with a row for every position that counts."""

STREAM = "stream"
"""Bytes, of which a position has more or fewer."""


def counts_of(batch: Batch, rows: int) -> list[int]:
    """How many of ``rows`` positions that count each sample of ``batch`` has."""
    if batch.mask is None:
        return [rows // batch.size] * batch.size
    counts: list[int] = batch.mask.reshape(batch.size, -1).sum(1).tolist()
    return counts


class _Sample(NamedTuple):
    digest: Tensor
    rows: Kept


def pack(samples: Sequence[tuple[int, Kept]], metadata: dict[str, str]) -> bytes:
    """A shard's file.

    Args:
        samples: Of each sample, in the order of their ids, the digest of its inputs, and what was recorded.
        metadata: Kept in its header.
    """
    tensors = {"digests": torch.tensor([digest for digest, _ in samples])}
    for name in samples[0][1]:
        tensors[f"rows.{name}"] = torch.cat([rows[name] for _, rows in samples])
        tensors[f"offsets.{name}"] = torch.tensor([0, *(len(rows[name]) for _, rows in samples)]).cumsum(0)
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
        self._names: list[str] = []

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
        rows = {}
        for name in self._names:
            first, last = shard[f"offsets.{name}"][place : place + 2].tolist()
            rows[name] = shard[f"rows.{name}"][first:last]
        return _Sample(shard["digests"][place], rows)

    def _mapped(self, number: int) -> dict[str, Tensor]:
        with safe_open(str(self._folder / shard_name(number)), "pt") as file:
            found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (it is no mapping)
        # What has a row for every position is first.
        names = [name.removeprefix("rows.") for name in found if name.startswith("rows.")]
        self._names = sorted(names, key=lambda name: (name == STREAM, name))
        return found
