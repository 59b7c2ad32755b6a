import math

import pytest
import torch
from torch import nn

from distill.compression.pruning import FunctionCriterion, Granularity, Magnitude
from distill.compression.pruning.rankings import MASK, Layer, Ranking, rankings
from distill.core.module_selection import Conv1D
from distill.core.utils.errors import TrainingError, UserError


def layer(module, name="layer"):
    module.register_buffer(MASK, torch.ones_like(module.weight, dtype=torch.bool))
    return Layer(name, module)


@pytest.mark.parametrize(("text", "keep"), [("2:4", 2), ("1:4", 1), ("4:8", 4)])
@pytest.mark.parametrize("kind", ["linear", "conv1d", "conv"])
def test_every_group_along_the_inputs_keeps_its_n_largest(kind, text, keep):
    torch.manual_seed(0)
    module = {"linear": nn.Linear(16, 6), "conv1d": Conv1D(6, 16), "conv": nn.Conv2d(8, 6, (2, 1))}[kind]
    before = module.weight.detach().clone()
    granularity, one = Granularity.parse(text), layer(module)
    for part in (0.3, 0.7, 1.0):
        Ranking([one], granularity.most).update(part * granularity.most, granularity, Magnitude())
    group = granularity.columns

    def groups(weight):
        """Every group, found by indices."""
        if kind == "linear":
            return [weight[o, i : i + group] for o in range(6) for i in range(0, 16, group)]
        if kind == "conv1d":
            return [weight[i : i + group, o] for o in range(6) for i in range(0, 16, group)]
        return [weight[o, i : i + group, k, 0] for o in range(6) for k in range(2) for i in range(0, 8, group)]

    for old, new in zip(groups(before), groups(module.weight.detach()), strict=True):
        best = set(old.abs().topk(keep).indices.tolist())
        assert {i for i in range(group) if new[i] != 0} == best
        assert all(new[i] == old[i] for i in best)


def test_while_the_schedule_runs_whole_groups_are_pruned_the_cheapest_first():
    module = nn.Linear(4, 3, bias=False)
    module.weight.data = torch.tensor([[1.0, 9.0, 9.0, 1.0], [3.0, 9.0, 9.0, 3.0], [2.0, 9.0, 9.0, 2.0]])
    one, granularity = layer(module), Granularity.parse("2:4")
    Ranking([one], 0.5).update(0.5 / 3, granularity, Magnitude())
    assert one.mask.tolist() == [[False, True, True, False], [True] * 4, [True] * 4]
    Ranking([one], 0.5).update(1 / 3, granularity, Magnitude())
    assert one.mask[2].tolist() == [False, True, True, False]
    assert one.mask[1].all()


def test_blocks_go_as_a_whole():
    torch.manual_seed(0)
    module = nn.Linear(6, 8)
    before = module.weight.detach().clone()
    one = layer(module)
    Ranking([one], 0.5).update(0.5, Granularity.parse("4x2"), Magnitude())
    sums = {(r, c): before[r : r + 4, c : c + 2].abs().sum().item() for r in (0, 4) for c in (0, 2, 4)}
    gone = sorted(sums, key=sums.__getitem__)[:3]
    for (r, c), block in {k: one.mask[k[0] : k[0] + 4, k[1] : k[1] + 2] for k in sums}.items():
        assert block.any() == block.all() == ((r, c) not in gone)


@pytest.mark.parametrize("factor", [1.0, 1e-3, 1e3])
def test_a_global_ranking_compares_multiples_of_each_layers_root_mean_square(factor):
    torch.manual_seed(0)
    one, other = nn.Linear(5, 4), nn.Linear(4, 4)
    parts = [m.weight.detach().double().flatten() for m in (one, other)]
    multiples = torch.cat([part.abs() / part.square().mean().sqrt() for part in parts]).tolist()
    one.weight.data *= factor  # says nothing of what its weights do
    pair = [layer(one, "one"), layer(other, "other")]
    Ranking(pair, 0.5).update(0.5, Granularity(), Magnitude())
    gone = sorted(range(36), key=multiples.__getitem__)[:18]
    assert torch.cat([p.mask.flatten() for p in pair]).tolist() == [i not in gone for i in range(36)]


def test_scores_that_are_comparable_as_they_are_are_compared_so():
    class Known(Magnitude):
        comparable = True

    torch.manual_seed(0)
    one, other = nn.Linear(5, 4), nn.Linear(4, 4)
    one.weight.data *= 1e-3
    pair = [layer(one), layer(other)]
    Ranking(pair, 0.5, cap=1.0).update(0.5, Granularity(), Known())
    assert [int((~p.mask).sum()) for p in pair] == [18, 0]


def outliers():
    """A layer of 20 weights of which one is all but the whole norm, and one of 16 equal ones."""
    torch.manual_seed(0)
    one, other = nn.Linear(5, 4), nn.Linear(4, 4)
    one.weight.data *= 1e-3
    one.weight.data[0, 0] = 1.0
    other.weight.data.sign_()
    return [layer(one, "one"), layer(other, "other")]


def test_a_cap_holds_in_every_layer_and_the_count_is_still_exact():
    pair = outliers()
    Ranking(pair, 0.5, cap=0.6).update(0.5, Granularity(), Magnitude())
    assert [int((~p.mask).sum()) for p in pair] == [12, 6]


def test_by_itself_a_ranking_leaves_each_layer_a_quarter_of_its_equal_share():
    pair = outliers()
    ranking = Ranking(pair, 0.5)
    ranking.update(0.5, Granularity(), Magnitude())
    assert [int((~p.mask).sum()) for p in pair] == [18, 0]  # 20 - 20 / 2 / 4, rounded down
    assert ranking.held(Granularity()) == ["one"]


@pytest.mark.parametrize("text", ["unstructured", "2x2"])
@pytest.mark.parametrize("sparsity", [0.5, 0.9, 0.99, 0.999])
def test_no_layer_is_left_with_nothing_however_small(text, sparsity):
    sizes = [(4, 2), (2, 2), (8, 8)]
    layers = [layer(nn.Linear(i, o), f"{o}x{i}") for o, i in sizes]
    for one in layers[1:]:
        one.module.weight.data.fill_(1e-6)
    ranking = Ranking(layers, sparsity)
    ranking.check(Granularity.parse(text), Magnitude())
    ranking.update(sparsity, Granularity.parse(text), Magnitude())
    assert all(one.mask.any() for one in layers)
    alone = layer(nn.Linear(4, 2))
    Ranking([alone], sparsity).update(sparsity, Granularity.parse(text), Magnitude())
    assert alone.mask.any()


def test_equal_scores_empty_neither_rows_nor_columns():
    module = nn.Linear(32, 32)
    module.weight.data.fill_(0.5)
    for text in ("unstructured", "2:4"):
        one = layer(module)
        Ranking([one], 0.5).update(0.5, Granularity.parse(text), Magnitude())
        assert int(one.mask.sum()) == 512
        for side in (0, 1):
            assert one.mask.sum(side).max() < 26
            assert one.mask.sum(side).min() > 6
        module.weight.data.fill_(0.5)


class Shown(Magnitude):
    """Scores of the first rows alone, much larger or smaller than magnitudes are."""

    def __init__(self, factor, rows):
        self.factor, self.rows = factor, rows

    def score(self, module):
        return super().score(module) * self.factor * self.scored(module)

    def scored(self, module):
        return (torch.arange(len(module.weight)) < self.rows)[:, None].expand_as(module.weight)


@pytest.mark.parametrize("factor", [-1e6, -1.0, 1e-6, 1e6])
@pytest.mark.parametrize("text", ["unstructured", "2x1", "2:4"])
def test_weights_without_a_score_are_ranked_by_magnitude_among_themselves(factor, text):
    torch.manual_seed(0)
    module, other = nn.Linear(16, 8, bias=False), nn.Linear(16, 4, bias=False)
    before, granularity = module.weight.detach().abs().clone(), Granularity.parse(text)
    pair = [layer(module, "module"), layer(other, "other")]
    Ranking(pair, 0.5).update(0.5, granularity, Shown(factor, 4))
    assert sum(int((~p.mask).sum()) for p in pair) == 96  # exact
    blind = ~pair[0].mask[4:]
    assert int(blind.sum()) == 32  # half of them, however the others score
    costs = granularity.units(before[4:])
    gone = granularity.units(blind)
    if text == "2:4":
        assert all(g.sum() == 2 and c[g].max() < c[~g].min() for c, g in zip(costs, gone, strict=True))
    else:
        assert costs.sum(1)[gone.all(1)].max() < costs.sum(1)[~gone.any(1)].min()


def test_a_cap_under_which_the_sparsity_cannot_be_reached_is_refused():
    ranking = Ranking([layer(nn.Linear(4, 4))], 0.8, cap=0.5)
    with pytest.raises(UserError, match=r"max_layer_sparsity = 0.5.*reach 0.5 only"):
        ranking.check(Granularity(), Magnitude())


def test_a_weight_that_is_zero_by_itself_does_not_change_places_with_a_pruned_one():
    module = nn.Linear(4, 1, bias=False)
    module.weight.data = torch.tensor([[0.5, 0.1, 0.2, 0.3]])
    one = layer(module)
    Ranking([one], 0.5).update(0.25, Granularity(), Magnitude())
    module.weight.data[0, 0] = 0.0
    Ranking([one], 0.5).update(0.25, Granularity(), Magnitude())
    assert one.mask.tolist() == [[True, False, True, True]]


def test_what_is_pruned_is_zero_and_not_minus_zero():
    module = nn.Linear(2, 1, bias=False)
    module.weight.data = torch.tensor([[-0.1, -0.5]])
    one = layer(module)
    Ranking([one], 0.5).update(0.5, Granularity(), Magnitude())
    assert module.weight.tolist() == [[0.0, -0.5]]
    assert not torch.signbit(module.weight[0, 0])


def test_scores_of_another_shape_are_refused():
    wrong, ranking = FunctionCriterion(lambda weight, module: weight[0]), Ranking([layer(nn.Linear(2, 3))], 0.5)
    with pytest.raises(UserError, match="a score for each weight of layer"):
        ranking.check(Granularity(), wrong)


def make(*names):
    return [layer(nn.Linear(2, 2), name) for name in names]


def found(scope, finals=None):
    layers = make("a.query", "a.key", "a.ffn", "b.query", "b.ffn")
    made = rankings(layers, scope, finals or {}, 0.8, 0.9, "scope")
    return [([one.name for one in ranking.layers], ranking.final, ranking.cap) for ranking in made]


def test_scopes_tell_who_competes_with_whom():
    every = ["a.query", "a.key", "a.ffn", "b.query", "b.ffn"]
    assert found("global") == [(every, 0.8, 0.9)]
    assert found("layer") == [([name], 0.8, 1.0) for name in every]
    assert found(["query|key"]) == [(["a.query", "a.key", "b.query"], 0.8, 0.9), (["a.ffn", "b.ffn"], 0.8, 0.9)]
    assert found(["^a", "query"]) == [(every[:3], 0.8, 0.9), (["b.query"], 0.8, 0.9), (["b.ffn"], 0.8, 0.9)]


def test_a_layer_with_a_sparsity_of_its_own_is_ranked_by_itself():
    assert found("global", {"a.key": 0.5}) == [
        (["a.key"], 0.5, 1.0),
        (["a.query", "a.ffn", "b.query", "b.ffn"], 0.8, 0.9),
    ]


@pytest.mark.parametrize(("scope", "key"), [(["qury"], "scope.0"), (["query", "("], "scope.1")])
def test_a_group_that_finds_no_layer_is_refused_with_the_nearest(scope, key):
    with pytest.raises(UserError) as error:
        found(scope)
    assert error.value.key == key
    if scope == ["qury"]:
        assert "query" in str(error.value)


def test_a_cap_is_one_of_weights_where_groups_are_pruned_too():
    pair = [layer(nn.Linear(8, 4), "small"), layer(nn.Linear(8, 4), "large")]
    pair[0].module.weight.data *= 1e-3
    two_of_four = Granularity.parse("2:4")
    Ranking(pair, 0.5, cap=0.5).check(two_of_four, Magnitude())
    Ranking(pair, 0.5, cap=0.25).update(0.25, two_of_four, Magnitude())
    assert [int((~p.mask).sum()) for p in pair] == [8, 8]
    with pytest.raises(UserError, match=r"max_layer_sparsity = 0.25.*reach 0.25 only"):
        Ranking(pair, 0.5, cap=0.25).check(two_of_four, Magnitude())


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_scores_that_are_not_finite_are_refused_before_training_and_end_it(value):
    wrong = FunctionCriterion(lambda weight, module: weight.abs().index_fill(0, torch.tensor([0]), value))
    ranking = Ranking([layer(nn.Linear(2, 3))], 0.5)
    with pytest.raises(UserError, match=r"FunctionCriterion.*of layer are not all finite"):
        ranking.check(Granularity(), wrong)
    with pytest.raises(TrainingError, match="FunctionCriterion gives scores of layer"):
        ranking.update(0.5, Granularity(), wrong)


def test_weights_that_are_no_numbers_are_not_the_criterions_fault():
    module = nn.Linear(2, 3)
    module.weight.data[1, 0] = math.nan
    with pytest.raises(UserError, match=r"include = 'layer': 1 of its 6 weights are NaN"):
        Ranking([layer(module)], 0.5).check(Granularity(), Magnitude())


def test_a_frozen_layer_is_pruned_as_much_as_those_whose_weights_come_back():
    torch.manual_seed(0)
    frozen, learnt = layer(nn.Linear(40, 40), "frozen"), layer(nn.Linear(10, 10), "learnt")
    both = Ranking([frozen, learnt], 0.5)
    for sparsity in (0.1, 0.3, 0.5):
        learnt.module.weight.data.mul_(0.1)  # what came back is small
        gradients = {"frozen": torch.zeros(40, 40), "learnt": torch.rand(10, 10)}
        both.update(sparsity, Granularity(), Magnitude(), gradients, 0.3)
        assert [int((~one.mask).sum()) for one in both.layers] == [int(1600 * sparsity), int(100 * sparsity)]
