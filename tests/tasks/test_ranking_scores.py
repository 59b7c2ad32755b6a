"""Rankings scored: held against scikit-learn, and against every order that ties may have."""

from itertools import pairwise, permutations
from math import log2

import numpy as np
import pytest
import torch
from sklearn.metrics import ndcg_score

from distill.tasks.ranking_scores import NDCG, ReciprocalRank, ndcg, reciprocal_rank


def orders(scores, gains, top, value):
    """The mean of a value over all orders by descending score."""
    n, found = len(scores), []
    for order in permutations(range(n)):
        if all(scores[a] >= scores[b] for a, b in pairwise(order)):
            found.append(value([gains[i] for i in order][:top]))
    return np.mean(found)


def first(gains):
    return next((1 / place for place, gain in enumerate(gains, 1) if gain > 0), 0.0)


def dcg(gains):
    return sum(gain / log2(place + 1) for place, gain in enumerate(gains, 1))


@pytest.mark.parametrize("top", [1, 3, 10])
@pytest.mark.parametrize("seed", range(6))
def test_a_ranking_scores_the_mean_over_the_orders_of_its_ties(seed, top):
    draw = np.random.default_rng(seed)
    scores, gains = draw.integers(0, 3, 6), draw.choice([0.0, 0.0, 0.5, 1.0], 6)
    gains[draw.integers(6)] = 1.0
    of = torch.tensor(scores).float(), torch.tensor(gains).float()
    best = dcg(sorted(gains, reverse=True)[:top])
    assert ndcg(*of, top) == pytest.approx(orders(scores, gains, top, dcg) / best)
    assert reciprocal_rank(*of, top) == pytest.approx(orders(scores, gains, top, first))


def test_it_is_that_of_scikit_learn():
    draw = np.random.default_rng(0)
    for size in (2, 11, 40):
        scores, gains = draw.normal(size=size).round(1), draw.choice([0.0, 0.25, 1.0], size)
        gains[0] = 1.0
        expected = ndcg_score(gains[None], scores[None], k=10)
        assert ndcg(torch.tensor(scores), torch.tensor(gains)) == pytest.approx(expected)


def test_many_ties_are_counted_exactly_and_no_order_is_tried():
    gains = torch.tensor([1.0, 1.0] + [0.0] * 998)
    chance = sum((1000 - k) / (1000 * 999 / 2) / k for k in range(1, 11))  # the first of two at place k
    assert reciprocal_rank(torch.zeros(1000), gains) == pytest.approx(chance)


def rows(draw, queries=7):
    query = np.repeat(np.arange(queries) * 2**60 - 2**62, 5)
    gains = draw.choice([0.0, 1.0], len(query), p=[0.7, 0.3])
    gains[:5] = 0  # of the first query nothing is relevant
    parts = query, np.arange(len(query)), draw.normal(size=len(query)), gains
    return [torch.tensor(part) for part in parts]


@pytest.mark.parametrize("metric", [NDCG, ReciprocalRank])
def test_each_query_counts_once_whatever_batch_its_rows_are_in(metric):
    draw = np.random.default_rng(1)
    query, row, scores, gains = rows(draw)
    made = metric()
    order = torch.from_numpy(draw.permutation(len(row)))
    for part in order.split(4):
        made.update(query[part], row[part], scores[part], gains[part])
    made.update(query[:9], row[:9], scores[:9], gains[:9])  # the rows that a sampler of several ranks repeats
    one = ndcg if metric is NDCG else reciprocal_rank
    parts = [(scores[i : i + 5].float(), gains[i : i + 5].float()) for i in range(0, len(row), 5)]
    judged = [(s, g) for s, g in parts if g.any()]
    assert 0 < len(judged) < len(parts)
    expected = np.array([one(s, g) for s, g in judged])
    assert float(made.compute()) == pytest.approx(expected.mean())
    assert float(made.standard_error) == pytest.approx(expected.std() / len(expected) ** 0.5)
    assert float(made.chance) == pytest.approx(np.mean([one(torch.zeros(5), g) for _, g in judged]))


def test_a_score_that_is_no_number_ranks_last_and_no_query_at_all_is_no_score():
    made = ReciprocalRank()
    made.update(
        torch.zeros(2, dtype=torch.long), torch.arange(2), torch.tensor([torch.nan, -9.0]), torch.tensor([1, 0])
    )
    assert float(made.compute()) == 0.5
    empty = NDCG()
    empty.update(*(torch.zeros(0, dtype=kind) for kind in (torch.long, torch.long, torch.float, torch.float)))
    assert empty.compute().isnan()
    assert NDCG().of_queries() == []
