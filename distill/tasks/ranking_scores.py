"""How well scores rank what belongs to a query before what does not, each query once."""

from __future__ import annotations

import math
from abc import abstractmethod
from itertools import pairwise

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

__all__ = ["NDCG", "TOP", "PerQuery", "ReciprocalRank", "ndcg", "reciprocal_rank"]

TOP = 10
"""Of a ranking so many places count, as is usual for rerankers."""


def ndcg(scores_N: Tensor, gains_N: Tensor, top: int = TOP) -> float:
    """Normalized discounted cumulative gain of one query's passages, in [0, 1].

    DCG = sum_{i <= top} gain_i / log2(i + 1) over the places i = 1, 2, ... by descending score, divided by that of the
    best order. Passages of one score share the places that they take: it is the mean over their orders.

    Args:
        scores_N: Of the passages, ``[N]``.
        gains_N: How relevant each is, 0 or more; not all 0.
        top: How many places count.

    Reference:
        Jaervelin, Kekaelaeinen: Cumulated gain-based evaluation of IR techniques, 2002. Ties: McSherry, Najork:
        Computing information retrieval performance measures efficiently in the presence of tied scores, 2008.
    """
    places = torch.arange(1, len(scores_N) + 1, dtype=torch.float64)
    discounts = torch.where(places <= top, 1 / (places + 1).log2(), torch.zeros(()).double())
    gains = gains_N.double()
    _, at, sizes = scores_N.double().neg().unique(return_inverse=True, return_counts=True)  # type: ignore[no-untyped-call]
    ends = sizes.cumsum(0)
    whole = torch.cat([discounts.new_zeros(1), discounts.cumsum(0)])
    shared = (whole[ends] - whole[ends - sizes]) / sizes
    best = gains.sort(descending=True).values @ discounts
    return float(gains @ shared[at] / best)


def reciprocal_rank(scores_N: Tensor, gains_N: Tensor, top: int = TOP) -> float:
    """1 / the place of the first relevant passage of one query, 0 where it lies behind ``top``; in [0, 1].

    Passages of one score come in any order, as likely each: it is the mean over their orders. Of n of them, of which r
    are relevant, the first relevant one is the k-th with probability C(n - k, r - 1) / C(n, r).

    Args:
        scores_N: Of the passages, ``[N]``.
        gains_N: How relevant each is: above 0 it is; not all 0.
        top: How many places count.
    """
    relevant = gains_N > 0
    score = scores_N[relevant].max()
    tied = scores_N == score
    before, n, r = int((scores_N > score).sum()), int(tied.sum()), int((tied & relevant).sum())
    found = 0.0
    for k in range(1, min(n - r + 1, top - before) + 1):
        found += math.comb(n - k, r - 1) / math.comb(n, r) / (before + k)
    return found


class PerQuery(Metric):
    """The mean over queries of how well their passages are ranked. A query without a relevant passage is not judged.

    A score that is no number ranks its passage last. A row that comes twice counts once, so loaders of several ranks
    may repeat rows.

    Attributes:
        standard_error: That of the mean as queries are drawn anew, known after :meth:`compute`.
        chance: What orders drawn at random score in the mean, likewise.
    """

    is_differentiable = False
    full_state_update = False
    higher_is_better = True
    rows: list[Tensor]
    values: list[Tensor]
    standard_error: Tensor | None = None
    chance: Tensor | None = None

    def __init__(self) -> None:
        super().__init__()
        self.add_state("rows", [], dist_reduce_fx="cat")
        self.add_state("values", [], dist_reduce_fx="cat")

    def update(self, query: Tensor, row: Tensor, scores: Tensor, gains: Tensor) -> None:
        """Add pairs, ``[B]`` each; of a rank that has none empty ones.

        Args:
            query: A number of each pair's query.
            row: A number of the pair.
            scores: What ranks it.
            gains: How relevant it is, 0 or more.
        """
        self.rows.append(torch.stack([query, row], 1))
        self.values.append(torch.stack([scores.float().nan_to_num(nan=-torch.inf), gains.float()], 1))

    def compute(self) -> Tensor:
        found = torch.tensor(self.of_queries(), dtype=torch.float64).reshape(-1, 2)
        mean, self.chance = found.mean(0).float().to(self.device).unbind()
        if len(found):
            self.standard_error = (found[:, 0].std(correction=0) / len(found) ** 0.5).float()
        return mean

    def of_queries(self) -> list[tuple[float, float]]:
        """Of each query that is judged, in the order of their numbers, its value, and that of an order at random."""
        if not len(self.rows):
            return []
        rows, values = dim_zero_cat(self.rows).cpu(), dim_zero_cat(self.values).cpu()
        order = rows[:, 1].argsort(stable=True)
        order = order[rows[order, 0].argsort(stable=True)]
        rows, values = rows[order], values[order]
        new = torch.ones(len(rows), dtype=torch.bool)
        new[1:] = (rows[1:] != rows[:-1]).any(1)
        rows, values = rows[new], values[new]
        begins = torch.ones(len(rows), dtype=torch.bool)
        begins[1:] = rows[1:, 0] != rows[:-1, 0]
        edges = [*begins.nonzero().flatten().tolist(), len(rows)]
        judged = [values[a:b] for a, b in pairwise(edges) if bool((values[a:b, 1] > 0).any())]
        return [(self.of(*one.unbind(1)), self.of(torch.zeros(len(one)), one[:, 1])) for one in judged]

    @abstractmethod
    def of(self, scores: Tensor, gains: Tensor) -> float:
        """The value of one query."""


class NDCG(PerQuery):
    """:func:`ndcg` of its queries."""

    def of(self, scores: Tensor, gains: Tensor) -> float:
        return ndcg(scores, gains)


class ReciprocalRank(PerQuery):
    """:func:`reciprocal_rank` of its queries."""

    def of(self, scores: Tensor, gains: Tensor) -> float:
        return reciprocal_rank(scores, gains)
