import math

import pytest
import torch

from distill.prune.masks import choose, count_at, exchange, lowest, protect


def brute(values: list[float], count: int) -> list[bool]:
    chosen = sorted(range(len(values)), key=lambda i: (values[i], i))[:count]
    return [i in chosen for i in range(len(values))]


@pytest.mark.parametrize("seed", range(5))
def test_the_lowest_are_those_of_a_stable_sort(seed):
    generator = torch.Generator().manual_seed(seed)
    values = torch.randint(-3, 4, (40,), generator=generator).float()  # many ties
    values[torch.rand(40, generator=generator) < 0.3] = -math.inf
    values[torch.rand(40, generator=generator) < 0.1] = math.inf
    for count in range(41):
        assert lowest(values, count).tolist() == brute(values.tolist(), count)


def test_of_equal_scores_the_first_are_pruned():
    assert choose(torch.full((5,), 0.25), 2).tolist() == [True, True, False, False, False]


@pytest.mark.parametrize(
    ("sparsity", "units", "count"),
    [(0.5, 5, 3), (0.29, 100, 29), (0.7, 10, 7), (0.0, 9, 0), (0.8, 236, 189), (1.0, 7, 7)],
)
def test_a_sparsity_is_the_nearest_count_halves_up(sparsity, units, count):
    assert count_at(sparsity, units) == count


def test_what_is_pruned_stays_pruned_also_where_less_is_asked_for():
    costs = torch.tensor([0.0, -math.inf, 0.0, -math.inf, 5.0])
    assert choose(costs, 3).tolist() == [True, True, False, True, False]
    assert choose(costs, 1).tolist() == [False, True, False, True, False]


def test_a_cap_protects_all_but_the_lowest_of_a_layer():
    costs = torch.tensor([3.0, 1.0, 2.0, 0.0])
    assert protect(costs, 2).tolist() == [math.inf, 1.0, math.inf, 0.0]
    assert protect(costs, 4) is costs


def test_an_exchange_prunes_as_many_and_lets_the_largest_gradients_in():
    costs = torch.tensor([-math.inf, -math.inf, 1.0, 2.0, 3.0, 4.0])
    gradients = torch.tensor([0.1, 9.0, 0.2, 0.0, 99.0, 99.0])
    # 3 are pruned and 1 exchanged: 0, 1, 2, 3 drop, and 1 comes back. What is kept is not asked.
    assert exchange(costs, gradients, 3, 1).tolist() == [True, False, True, True, False, False]
    assert exchange(costs, gradients, 3, 0).tolist() == choose(costs, 3).tolist()


def test_an_exchange_leaves_what_a_cap_protects():
    costs = torch.tensor([-math.inf, 1.0, math.inf, math.inf])
    assert exchange(costs, torch.zeros(4), 1, 3).tolist() == [False, True, False, False]
