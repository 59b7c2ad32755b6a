import math

import pytest
import torch
from torch import nn

from distill.compression.pruning import FunctionCriterion, Magnitude, Movement, Random, Wanda
from distill.core.module_selection import Conv1D
from distill.core.signals import Batch
from distill.core.utils.errors import UserError


def observed(criterion, module, *batches):
    criterion.prepare(module, "layer")
    for batch in batches:
        handle = criterion.watch(module)
        module(batch)
        handle.remove()
        criterion.settle(module)
    return criterion.score(module)


def test_magnitude_is_the_absolute_value():
    module = nn.Linear(3, 2)
    module.weight.data = torch.tensor([[-1.0, 2.0, 0.0], [3.0, -0.5, -4.0]])
    assert torch.equal(Magnitude().score(module), torch.tensor([[1.0, 2.0, 0.0], [3.0, 0.5, 4.0]]))


def test_movement_is_minus_the_sum_of_weight_times_gradient():
    module, criterion = nn.Linear(3, 2), Movement()
    criterion.prepare(module, "layer")
    expected = torch.zeros(2, 3, dtype=torch.float64)
    for _ in range(3):
        gradient = torch.randn(2, 3)
        module.weight.grad = gradient.clone()
        criterion.learn(module)
        expected -= module.weight.detach().double() * gradient.double()
        with torch.no_grad():
            module.weight.add_(torch.randn(2, 3))
    torch.testing.assert_close(criterion.score(module).double(), expected, rtol=1e-5, atol=1e-6)


def test_movement_outlives_a_step_whose_gradients_overflowed():
    module, criterion = nn.Linear(2, 1), Movement()
    criterion.prepare(module, "layer")
    module.weight.grad = torch.tensor([[float("inf"), float("nan")]])
    criterion.learn(module)
    assert not criterion.score(module).any()


def norms(x):
    return x.double().square().mean(0).sqrt()


@pytest.mark.parametrize("kind", ["linear", "conv1d"])
def test_wanda_is_weight_times_norm_of_its_input(kind):
    torch.manual_seed(0)
    x = torch.randn(4, 5, 3) * torch.tensor([1.0, 5.0, 0.1])
    module = nn.Linear(3, 2) if kind == "linear" else Conv1D(2, 3)
    score = observed(Wanda(), module, x)
    norm, weight = norms(x.flatten(0, 1)), module.weight.detach().abs().double()
    expected = weight * (norm[None] if kind == "linear" else norm[:, None])
    torch.testing.assert_close(score.double() / 0.1**0.5, expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("groups", [1, 2])
def test_wanda_of_a_convolution_reads_the_channels_of_each_group(groups):
    torch.manual_seed(0)
    x, module = torch.randn(3, 4, 6, 5), nn.Conv2d(4, 6, 3, groups=groups)
    score = observed(Wanda(), module, x) / 0.1**0.5
    norm = norms(x.movedim(1, -1).flatten(0, 2))
    for out in range(6):
        for channel in range(4 // groups):
            first = out // (6 // groups) * (4 // groups)
            expected = module.weight[out, channel].detach().abs().double() * norm[first + channel]
            torch.testing.assert_close(score[out, channel].double(), expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("kind", ["linear", "convolution"])
def test_wanda_leaves_padding_out_whatever_stands_there(kind):
    torch.manual_seed(0)
    x, lengths = torch.randn(4, 6, 3) * torch.tensor([1.0, 5.0, 0.1]), [6, 2, 1, 4]
    tokens = torch.arange(6) < torch.tensor(lengths)[:, None]
    x[~tokens] = float("nan")
    module, criterion = nn.Linear(3, 2) if kind == "linear" else nn.Conv1d(3, 2, 3), Wanda()
    criterion.begin(Batch({"input": x}, tokens=tokens))
    score = observed(criterion, module, x if kind == "linear" else x.transpose(1, 2))
    norm = [sum(x[b, t, f].item() ** 2 for b in range(4) for t in range(lengths[b])) / 13 for f in range(3)]
    for feature, square in enumerate(norm):
        expected = module.weight[:, feature].detach().abs() * math.sqrt(0.1 * square)
        torch.testing.assert_close(score[:, feature], expected, rtol=1e-5, atol=1e-7)


def test_wanda_keeps_what_it_knew_of_a_layer_that_no_position_reached():
    module = nn.Linear(3, 2)
    seen = observed(Wanda(), module, torch.randn(4, 3)).clone()
    criterion = Wanda()
    handle = criterion.watch(module)
    module(torch.empty(0, 3))
    handle.remove()
    criterion.settle(module)
    assert torch.equal(criterion.score(module), seen)


def test_wanda_counts_all_of_an_input_that_is_no_sequence_of_tokens():
    torch.manual_seed(0)
    pooled, criterion, module = torch.randn(4, 3), Wanda(), nn.Linear(3, 2)
    criterion.begin(Batch({"input": pooled}, tokens=torch.arange(5) < torch.tensor([[5], [2], [1], [4]])))
    score = observed(criterion, module, pooled) / 0.1**0.5
    torch.testing.assert_close(score.double(), module.weight.detach().abs().double() * norms(pooled))


def test_wanda_does_not_look_in_validation():
    module, criterion = nn.Linear(3, 2), Wanda()
    assert not observed(criterion, module.eval(), torch.randn(4, 3)).any()


def test_wanda_refuses_an_embedding():
    with pytest.raises(UserError, match="words"):
        Wanda().prepare(nn.Embedding(3, 2), "words")


def test_random_scores_are_the_runs_for_good_and_each_layers_own(monkeypatch):
    def scores(seed, name):
        monkeypatch.setenv("PL_GLOBAL_SEED", seed)
        layer = nn.Linear(40, 50)
        Random().prepare(layer, name)
        return layer, Random().score(layer)

    layer, first = scores("1", "a")
    assert torch.equal(first, scores("1", "a")[1])
    assert not torch.equal(first, scores("2", "a")[1])
    assert not torch.equal(first, scores("1", "b")[1])
    assert 0.49 < float(first.mean()) < 0.51
    assert 0.07 < float(first.var()) < 0.1
    other, _ = scores("2", "a")
    other.load_state_dict(layer.state_dict())  # a resumed run
    assert torch.equal(Random().score(other), first)
    with torch.no_grad():
        other.weight.zero_()
    assert torch.equal(Random().score(other), first)


def test_a_function_of_ones_own_gives_the_scores():
    module = nn.Linear(3, 2)
    score = FunctionCriterion(lambda weight, module: weight**2 + module.bias[:, None]).score(module)
    torch.testing.assert_close(score, (module.weight**2 + module.bias[:, None]).detach())
