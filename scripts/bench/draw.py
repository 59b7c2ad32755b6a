"""Which phrases are timed, in what order each contender reads them, and the clock."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any

from bench.pair import Pair

WARM_UP = 4


@dataclass(frozen=True)
class Draw:
    """The phrases of one repeat: first those that warm up, then those timed, then those whose fetching ends the time.

    Attributes:
        bucketed: Our batches, drawn at random from those of an epoch.
        size: Phrases of a batch.
        steps: Timed batches.
    """

    bucketed: list[list[tuple[int, int]]]
    size: int
    steps: int

    @classmethod
    def of(cls, pair: Pair, steps: int, seed: int) -> Draw:
        return cls(pair.keys(WARM_UP + steps + 1, seed), pair.data.batch_size, steps)

    def shuffled(self, arrange: Callable[[list[int]], list[int]] | None = None) -> list[int]:
        """The rows of the same phrases, the timed ones among themselves in random order.

        Args:
            arrange: Orders the timed rows in place of chance.
        """
        lead, timed, rest = (
            [row for batch in part for _, row in batch]
            for part in (self.bucketed[:WARM_UP], self.bucketed[WARM_UP:-1], self.bucketed[-1:])
        )
        random.Random(0).shuffle(lead)
        random.Random(1).shuffle(timed)
        return [*lead, *(arrange(timed) if arrange else timed), *rest]

    def padding(self, lengths: Sequence[int], order: Sequence[int] | None = None) -> float:
        """The share of padding in the timed batches, ours or those cut from ``order``."""
        batches = [[row for _, row in batch] for batch in self.bucketed]
        if order is not None:
            batches = [list(order[at : at + self.size]) for at in range(0, len(order), self.size)]
        sizes = [[int(lengths[row]) for row in batch] for batch in batches[WARM_UP:-1]]
        return 1 - sum(map(sum, sizes)) / sum(len(batch) * max(batch) for batch in sizes)


class Clock:
    """A collate function that notes when each batch is asked for.

    Between the requests for two batches a loop does all of its work on as many, however early it asks.

    Args:
        collate: Makes the batch.
    """

    def __init__(self, collate: Callable[[list[Any]], Any]) -> None:
        self.collate = collate
        self.asked: list[float] = []

    def __call__(self, features: list[Any]) -> Any:
        self.asked.append(perf_counter())
        return self.collate(features)

    def rate(self, draw: Draw) -> float:
        """Samples a second over the timed batches."""
        return draw.steps * draw.size / (self.asked[WARM_UP + draw.steps] - self.asked[WARM_UP])
