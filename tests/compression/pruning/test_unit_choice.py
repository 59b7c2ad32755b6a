import math

import pytest
import torch

from distill.compression.pruning.unit_choice import (
    choose,
    comparable,
    count_at,
    exchange,
    lowest,
    on_one_scale,
    protect,
    spared,
)


@pytest.mark.parametrize("seed", range(5))
def test_the_lowest_are_as_many_as_asked_and_none_of_the_others_is_lower(seed):
    generator = torch.Generator().manual_seed(seed)
    values = torch.randint(-3, 4, (40,), generator=generator).float()  # many ties
    values[torch.rand(40, generator=generator) < 0.3] = -math.inf
    values[torch.rand(40, generator=generator) < 0.1] = math.inf
    for count in range(41):
        chosen = lowest(values, count)
        assert sorted(values[chosen].tolist()) == sorted(values.tolist())[:count]
        assert torch.equal(chosen, lowest(values.clone(), count))


def test_of_equal_scores_some_all_over_are_pruned():
    chosen = choose(torch.full((1000,), 0.25), 500).view(20, 50)
    assert int(chosen.sum()) == 500
    assert int(chosen.sum(1).min()) > 10
    assert int(chosen.sum(1).max()) < 40


@pytest.mark.parametrize(
    ("sparsity", "units", "count"),
    [(0.5, 5, 3), (0.29, 100, 29), (0.7, 10, 7), (0.0, 9, 0), (0.8, 236, 189), (1.0, 7, 7)],
)
def test_a_sparsity_is_the_nearest_count_halves_up(sparsity, units, count):
    assert count_at(sparsity, units) == count


def test_what_is_pruned_stays_pruned_also_where_less_is_asked_for():
    costs = torch.tensor([0.0, -math.inf, 1.0, -math.inf, 5.0])
    assert choose(costs, 3).tolist() == [True, True, False, True, False]
    assert choose(costs, 1).tolist() == [False, True, False, True, False]


def test_a_cap_protects_all_but_the_lowest_of_a_layer():
    costs = torch.tensor([3.0, 1.0, 2.0, 0.0])
    assert protect(costs, 2).tolist() == [math.inf, 1.0, math.inf, 0.0]
    assert protect(costs, 4) is costs


def test_an_exchange_prunes_as_many_and_lets_the_largest_gradients_in():
    costs = torch.tensor([-math.inf, -math.inf, 1.0, 2.0, 3.0, 4.0])
    gradients = torch.tensor([0.1, 9.0, 0.2, 0.05, 99.0, 99.0])
    # 3 are pruned and 1 exchanged: 0, 1, 2, 3 drop, and 1 comes back. What is kept is not asked.
    assert exchange(costs, gradients, 3, 1 / 3).tolist() == [True, False, True, True, False, False]
    assert exchange(costs, gradients, 3, 0.0).tolist() == choose(costs, 3).tolist()


def test_an_exchange_leaves_what_a_cap_protects():
    costs = torch.tensor([-math.inf, 1.0, math.inf, math.inf])
    assert exchange(costs, torch.ones(4), 1, 1.0).int().sum() == 1
    assert exchange(costs, torch.ones(4), 1, 1.0)[2:].tolist() == [False, False]


def test_units_without_a_gradient_are_not_exchanged():
    costs = torch.tensor([-math.inf, -math.inf, 1.0, 2.0, 3.0, 4.0])
    assert exchange(costs, torch.zeros(6), 3, 0.9).tolist() == choose(costs, 3).tolist()
    # Of 3, which is cheap and was not used, nothing is known: 4 goes for 1.
    gradients = torch.tensor([0.0, 9.0, 0.0, 0.0, 0.1, 0.1])
    assert exchange(costs, gradients, 3, 0.5).tolist() == [True, False, True, False, True, False]


def test_a_share_is_of_the_kept_units_that_have_a_gradient():
    costs = torch.cat([torch.tensor([-math.inf] * 4 + [1.0, 2.0, 3.0, 4.0]), torch.full((92,), 9.0)])
    gradients = torch.cat([torch.ones(4), torch.full((4,), 0.5), torch.zeros(92)])
    # A quarter of 4, not of 96: one of the four that learn goes, and one comes back.
    pruned = exchange(costs, gradients, 4, 0.25)
    assert pruned[4:].tolist() == [True, *[False] * 95]
    assert pruned[:4].sum() == 3


def test_units_of_two_kinds_are_ranked_by_their_place_in_their_own():
    costs = torch.tensor([5.0, -7.0, 100.0, -math.inf, 900.0, 300.0])
    blind = torch.tensor([False, False, True, True, True, True])
    assert on_one_scale(costs, blind).tolist() == [0.5, 0.0, 0.25, -math.inf, 0.75, 0.5]
    assert on_one_scale(costs, ~blind).tolist() == on_one_scale(costs, blind).tolist()
    assert on_one_scale(costs, torch.zeros(6, dtype=torch.bool)) is costs


def test_comparable_scores_are_multiples_of_their_root_mean_square():
    for factor in (1e-30, 1.0, 1e30):
        scores = comparable(torch.tensor([3.0, -4.0]) * factor)
        torch.testing.assert_close(scores, torch.tensor([3.0, -4.0]) / math.sqrt(12.5))
    assert comparable(torch.zeros(3)).tolist() == [0.0] * 3


@pytest.mark.parametrize(
    ("sizes", "pruned", "least"),
    [([100, 100], 160, [5, 5]), ([20, 16], 18, [2, 2]), ([1000, 8], 907, [25, 1]), ([4, 4, 4], 9, [1, 1, 1])],
)
def test_each_layer_is_spared_a_quarter_of_an_equal_share_and_one(sizes, pruned, least):
    assert spared(sizes, pruned) == least
