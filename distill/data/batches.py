"""Which samples make up which batch: a function of seed and epoch, read from any position on.

Lightning continues to count where a checkpoint stopped, but a loader without a state starts from the front.
Here the position is the trainer's own count of batches and nothing is stored, so no restored state can be lost.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Sampler

from distill.core.draws import order
from distill.core.utils.errors import UserError
from distill.data.features import Key

__all__ = ["EvaluationBatches", "TrainingBatches"]

_Rows = NDArray[np.int64]
_EVALUATION = 3  # the key of an order, as sources.py has others
_MEGA = 64  # batches sorted by length together: enough to leave little padding, few enough to stay random


class TrainingBatches(Sampler[list[Key]]):
    """One rank's batches: those of a whole epoch, counted from where training stands.

    An epoch's permutation is drawn by (seed, epoch). Stretches of 64 global batches are sorted by length and
    cut into global batches of ``batch_size * world_size``, whose order is drawn again. Each is sharded over the
    ranks like cards: equal in number, near equal in length. Every sample comes once an epoch.

    From the middle of an epoch iteration continues into the next one. Lightning stops by its own count, and the
    data stay in their order even where that count and the epochs part: under ``limit_train_batches``, or where
    a run with ``max_steps`` is resumed from the end of an epoch.

    Args:
        lengths: Tokens of every sample.
        batch_size: Samples of a batch on one rank.
        seed: The run's seed.
        position: Tells the batches trained so far, over all epochs, when iteration starts.
        rank: This process.
        world_size: All processes.
        bucketing: Sort by length; without it batches are cut from the permutation.

    Raises:
        UserError: if there are fewer samples than ranks.
    """

    def __init__(
        self,
        lengths: _Rows,
        batch_size: int,
        *,
        seed: int,
        position: Callable[[], int],
        rank: int = 0,
        world_size: int = 1,
        bucketing: bool = True,
    ) -> None:
        _check_world(len(lengths), world_size)
        self.lengths, self.batch_size, self.seed, self.position = lengths, batch_size, seed, position
        self.rank, self.world_size, self.bucketing = rank, world_size, bucketing

    def __len__(self) -> int:
        """Batches of a whole epoch, wherever iteration starts: Lightning counts those already trained too."""
        return len(self.sizes)

    @property
    def sizes(self) -> list[int]:
        """How many samples an epoch's global batches have, on all ranks together; in no order of an epoch."""
        cuts = _cuts(len(self.lengths), self.batch_size * self.world_size, self.world_size)
        return [b - a for a, b in pairwise(cuts)]

    def __iter__(self) -> Iterator[list[Key]]:
        epoch, start = divmod(self.position(), len(self))
        yield from self._keys(epoch, slice(start, None))
        if start:
            yield from self._keys(epoch + 1, slice(start))

    def _keys(self, epoch: int, part: slice) -> Iterator[list[Key]]:
        for rows in self.epoch(epoch)[part]:
            yield [(epoch, row) for row in rows[self.rank :: self.world_size].tolist()]

    def epoch(self, epoch: int) -> list[_Rows]:
        """The global batches of an epoch, each an array of rows."""
        rows = order(len(self.lengths), self.seed, epoch)
        size = self.batch_size * self.world_size
        if self.bucketing:
            stretches = range(0, len(rows), size * _MEGA)
            rows = np.concatenate([self._by_length(rows[at : at + size * _MEGA]) for at in stretches])
        cuts = _cuts(len(rows), size, self.world_size)
        batches = [rows[a:b] for a, b in pairwise(cuts)]
        return [batches[i] for i in order(len(batches), self.seed, epoch, 1)] if self.bucketing else batches

    def _by_length(self, rows: _Rows) -> _Rows:
        return rows[np.argsort(self.lengths[rows], kind="stable")]


def _cuts(count: int, size: int, world_size: int) -> list[int]:
    """Where ``count`` samples are cut into batches of ``size``; a rest too small for all ranks joins the last."""
    cuts = [*range(0, count, size), count]
    if len(cuts) > 2 and cuts[-1] - cuts[-2] < world_size:
        del cuts[-2]
    return cuts


def _check_world(count: int, world_size: int) -> None:
    if count < world_size:
        raise UserError(
            f"a split needs a sample for each rank: it has {count} and there are {world_size} ranks",
            key="trainer.devices",
            value=world_size,
            hint="use fewer devices or more data",
        )


def _by_group(groups: _Rows) -> _Rows:
    """The samples of one group after those of another, the groups drawn at random, each in its own order."""
    _, numbers = np.unique(groups, return_inverse=True)
    place = np.argsort(order(int(numbers.max(initial=-1)) + 1, _EVALUATION), kind="stable")
    return np.argsort(place[numbers], kind="stable")


class EvaluationBatches(Sampler[list[Key]]):
    """One rank's batches of a validation or test split: every sample once, always the same.

    The first 1, 2, 4, 8, ... batches hold samples drawn at random, whatever their lengths, so that what is read of a
    part of the batches (``limit_val_batches``) is true of the whole. Of each such part the second half is sorted by
    length before it is cut into batches, for little padding. Samples that are judged together follow each other, and
    each part is of whole groups but for the last one.

    All ranks have equally many batches, whose sizes differ by 1 at most and keep to ``batch_size`` (one more
    only where a batch size of 1 does not divide among the ranks).

    Args:
        lengths: Tokens of every sample.
        batch_size: The most samples of a batch on one rank.
        groups: A number of every sample, shared by those that are judged together; ``None`` where each is by itself.
        rank: This process.
        world_size: All processes.

    Raises:
        UserError: if there are fewer samples than ranks.
    """

    def __init__(
        self, lengths: _Rows, batch_size: int, groups: _Rows | None = None, *, rank: int = 0, world_size: int = 1
    ) -> None:
        _check_world(len(lengths), world_size)
        per_rank = min(-(-len(lengths) // (batch_size * world_size)), len(lengths) // world_size)
        # One fixed key, not the run's seed: runs that differ in it must be judged by the same samples.
        rows = order(len(lengths), _EVALUATION) if groups is None else _by_group(groups)
        drawn = np.array_split(rows, per_rank * world_size)
        if groups is not None:
            self.batches = drawn[rank::world_size]
            return
        batches: list[_Rows] = []
        while (done := len(batches) // world_size) < per_rank:
            some = drawn[len(batches) : len(batches) + max(done, 1) * world_size]
            rows = np.concatenate(some)
            cuts = np.cumsum([len(batch) for batch in some])[:-1]
            by_length = np.split(rows[np.argsort(lengths[rows], kind="stable")], cuts)
            for step in order(len(some) // world_size, _EVALUATION, done):
                batches += by_length[step * world_size : (step + 1) * world_size]
        self.batches = batches[rank::world_size]

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[Key]]:
        for rows in self.batches:
            yield [(0, row) for row in rows.tolist()]
