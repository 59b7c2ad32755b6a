"""The promises of factorized linear maps, against numpy's singular value decomposition."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from distill.callbacks import LowRank
from distill.compression.structure.low_rank import (
    LowRankLinear,
    factorize,
    rank_of_energy,
    rebuild,
    replace,
    saves,
    shape,
)
from distill.core.utils.errors import UserError


@pytest.mark.parametrize("rank", [1, 3, 7])
def test_factors_are_the_best_approximation_of_their_rank(rank: int) -> None:
    weight = torch.randn(11, 7, generator=torch.Generator().manual_seed(0))
    down, up = factorize(weight, rank)
    assert (down.shape, up.shape) == ((rank, 7), (11, rank))
    u, s, v = np.linalg.svd(weight.double().numpy(), full_matrices=False)
    best = u[:, :rank] * s[:rank] @ v[:rank]
    np.testing.assert_allclose((up @ down).numpy(), best, atol=1e-5)
    # Of equal size: both have singular values sqrt(s).
    for factor in (down, up):
        np.testing.assert_allclose(np.linalg.svd(factor.numpy())[1], np.sqrt(s[:rank]), rtol=1e-4)


def test_rank_of_energy_is_the_least_that_keeps_enough() -> None:
    singular = torch.tensor([3.0, 2.0, 1.0, 0.0])  # squares 9, 4, 1 of 14
    assert [rank_of_energy(singular, e) for e in (0.1, 9 / 14, 0.65, 13 / 14, 0.95, 1.0)] == [1, 1, 2, 2, 3, 3]


def test_a_factorized_map_computes_the_product_of_its_factors() -> None:
    for linear in (nn.Linear(6, 4), nn.Linear(6, 4, bias=False), Conv1D(4, 6)):
        assert shape(linear) == (4, 6)
        holder = nn.Sequential(linear)
        bias = getattr(linear, "bias", None)
        replace(holder, {"0": 2})
        new = holder[0]
        assert isinstance(new, LowRankLinear)
        assert new.up.bias is bias
        x = torch.randn(3, 6)
        expected = x @ (new.up.weight @ new.down.weight).T + (0 if bias is None else bias)
        torch.testing.assert_close(new(x), expected)
        assert (new.in_features, new.out_features) == (6, 4)
        assert sum(p.numel() for p in new.parameters()) == 2 * (6 + 4) + (0 if bias is None else 4)


def test_it_saves_only_below_half_the_harmonic_mean() -> None:
    assert saves(8, 8, 3)
    assert not saves(8, 8, 4)  # as many weights


def test_a_module_in_two_places_is_replaced_in_both() -> None:
    linear = nn.Linear(4, 4)
    holder = nn.ModuleList([linear, linear])
    replace(holder, {"0": 1})
    assert holder[0] is holder[1]
    assert isinstance(holder[0], LowRankLinear)


def test_maps_that_share_their_weight_share_their_factors() -> None:
    first, second = nn.Linear(4, 4), nn.Linear(4, 4)
    second.weight = first.weight
    holder = nn.ModuleList([first, second])
    replace(holder, {"0": 1, "1": 1})
    assert holder[0].down.weight is holder[1].down.weight  # type: ignore[union-attr]
    assert holder[0].up.weight is holder[1].up.weight  # type: ignore[union-attr]
    assert holder[0].up.bias is not holder[1].up.bias  # type: ignore[union-attr]


def test_rebuilding_gives_the_names_and_shapes(tiny: Callable[..., Any]) -> None:
    model = tiny("gpt2")
    ranks = {"transformer.h.0.attn.c_attn": 3, "transformer.h.2.mlp.c_fc": 2}
    other = copy.deepcopy(model)
    replace(model, ranks)
    rebuild(other, {"kind": "low_rank", "modules": ranks})
    left, right = model.state_dict(), other.state_dict()
    assert {n: v.shape for n, v in left.items()} == {n: v.shape for n, v in right.items()}
    with pytest.raises(UserError, match=r"transformer\.h\.9"):
        rebuild(other, {"kind": "low_rank", "modules": {"transformer.h.9.mlp.c_fc": 2}})


def test_a_map_under_two_names_is_rebuilt_as_it_was() -> None:
    def pair() -> nn.ModuleDict:
        linear = nn.Linear(6, 6)
        return nn.ModuleDict({"one": linear, "again": linear})

    model, opened = pair(), pair()
    replace(model, {"one": 2})
    rebuild(opened, {"kind": "low_rank", "modules": {"one": 2, "again": 2}})  # both names are in the record
    assert opened["one"] is opened["again"]
    opened.load_state_dict(model.state_dict())


@pytest.mark.parametrize(
    "conv",
    [
        nn.Conv2d(4, 6, 3, stride=2, padding=1, dilation=2, padding_mode="reflect"),
        nn.Conv1d(4, 6, 5, padding="same", bias=False),
        nn.Conv3d(2, 5, (1, 2, 3)),
    ],
)
def test_a_factorized_convolution_is_the_one_with_the_nearest_kernel_of_its_rank(conv: Any) -> None:
    net = nn.Sequential(conv, nn.ReLU())
    u, s, v = np.linalg.svd(conv.weight.detach().double().reshape(len(conv.weight), -1).numpy(), full_matrices=False)
    nearest = torch.tensor((u[:, :2] * s[:2]) @ v[:2]).view_as(conv.weight).float()
    x = torch.randn(2, conv.in_channels, *[9] * (conv.weight.dim() - 2))
    whole = copy.deepcopy(conv)
    with torch.no_grad():
        whole.weight.copy_(nearest)
    low_rank = LowRank(rank=2, include=["0"])
    low_rank.prepare(net)
    torch.testing.assert_close(net(x), whole(x).relu(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(net[0].weight, nearest, rtol=1e-4, atol=1e-5)
    assert low_rank.finish(net) == [{"kind": "low_rank", "modules": {"0": 2}}]
    assert {name: tuple(p.shape) for name, p in net[0].named_parameters()}["down.weight"][:2] == (2, conv.in_channels)
    fresh = nn.Sequential(copy.deepcopy(whole), nn.ReLU())
    rebuild(fresh, {"modules": {"0": 2}})
    fresh.load_state_dict(net.state_dict())
    assert torch.equal(fresh(x), net(x))


def test_convolutions_with_groups_and_derived_ones_stay_whole() -> None:
    class Own(nn.Conv2d):
        pass

    net = nn.Sequential(nn.Conv2d(4, 8, 3, groups=2), Own(8, 8, 3), nn.Conv2d(8, 8, 3), nn.Conv2d(8, 2, 1))
    LowRank(rank=2).prepare(net)
    assert [type(module).__name__ for module in net] == ["Conv2d", "Own", "LowRankConv", "Conv2d"]
