"""The promises of what is pruned: where weights are tied, and what settings leave without effect."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import nn

from distill.compression.pruning.criteria import Magnitude
from distill.compression.pruning.granularity import Granularity
from distill.compression.pruning.masking_plan import MaskingPlan
from distill.compression.pruning.masks import Masks
from distill.core.utils.errors import UserError


class Tied(nn.Module):
    """The weight of ``one`` is that of ``two`` and of the head, which is not pruned by itself."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.one, self.two, self.other, self.head = (nn.Linear(10, 10) for _ in range(4))
        self.two.weight = self.head.weight = self.one.weight


def plan_of(overrides: Mapping[str, float], **more: Any) -> MaskingPlan:
    """To one half, but for the overrides."""
    settings: dict[str, Any] = {
        "final": 0.5,
        "granularity": Granularity.parse("unstructured"),
        "criterion": Magnitude(),
        "scope": "layer",
        "kinds": (nn.Linear,),
        "include": None,
        "exclude": [],
        "max_layer_sparsity": 1.0,
        "regrow": 0.0,
    }
    return MaskingPlan(overrides=overrides, **(settings | more))


def pruned(overrides: Mapping[str, float]) -> tuple[nn.Module, Masks]:
    plan, net = plan_of(overrides), Tied()
    masks = plan.prepare(net, "key")
    masks.update(plan.final, {}, 0.0)
    return net, masks


@pytest.mark.parametrize("name", ["one", "two", "head"])
@pytest.mark.parametrize("sparsity", [0.0, 0.2])
def test_an_override_holds_by_whichever_name_of_a_tied_weight(name: str, sparsity: float) -> None:
    net, _ = pruned({f"^{name}$": sparsity})
    zeros = {name: int((module.weight == 0).sum()) for name, module in net.named_children()}
    assert zeros == {"one": 100 * sparsity, "two": 100 * sparsity, "head": 100 * sparsity, "other": 50}


def test_a_tied_weight_has_one_mask_under_its_first_name() -> None:
    _, masks = pruned({"^two$": 0.2, "^one$": 0.2})
    assert masks.buffers == ["one.weight_mask", "other.weight_mask"]


def test_names_of_one_weight_with_different_sparsities_are_refused() -> None:
    with pytest.raises(UserError, match=r"key\.overrides.*one and two are one weight.*the same"):
        pruned({"^one$": 0.0, "^two$": 0.9})


@pytest.mark.parametrize("pattern", ["^two$", "^head$"])
def test_a_group_may_not_be_named_by_the_second_name_of_a_tied_weight(pattern: str) -> None:
    with pytest.raises(UserError, match=r"key\.scope\.0|^scope\.0"):
        plan_of({}, scope=[pattern]).prepare(Tied(), "key")


def test_a_cap_is_refused_where_every_layer_is_ranked_by_itself() -> None:
    message = r"max_layer_sparsity = 0.75: with a ranking for each layer.*scope: global, or lower final_sparsity"
    with pytest.raises(UserError, match=message):
        plan_of({}, max_layer_sparsity=0.75)
    plan_of({}, max_layer_sparsity=0.75, scope="global")
    plan_of({}, max_layer_sparsity=0.75, scope=["one"])


def test_an_override_above_the_cap_is_refused() -> None:
    with pytest.raises(UserError, match=r"overrides\.other = 0.8: lies above max_layer_sparsity, 0.75"):
        plan_of({"one": 0.75, "other": 0.8}, scope="global", max_layer_sparsity=0.75)
    plan_of({"one": 0.75}, scope="global", max_layer_sparsity=0.75)


@pytest.mark.parametrize("overflow", [float("inf"), float("-inf"), float("nan")])
def test_a_gradient_that_overflowed_brings_no_weight_back(overflow: float) -> None:
    net = nn.Sequential(nn.Linear(10, 1), nn.Linear(1, 1))
    with torch.no_grad():
        net[0].weight.copy_(torch.arange(1.0, 11.0)[None])
    masks = plan_of({}, include=["0"], regrow=0.2).prepare(net, "key")
    masks.update(0.5, {}, 0.0)  # the first five are gone
    net[0].weight.grad = torch.tensor([[overflow, 0.1, 5.0, 0.1, 0.1, 1.0, 1.0, 1.0, 1.0, 1.0]])
    masks.update(0.5, masks.gradients(), 0.2)  # one of five may be given for another
    assert masks.layers[0].mask.tolist() == [[False, False, True, False, False, False, True, True, True, True]]


def test_half_way_to_the_target_an_override_is_half_way_to_its_own() -> None:
    net = Tied()
    masks = plan_of({"^one$": 0.2}).prepare(net, "key")  # and the other to 0.5
    masks.update(0.25, {}, 0.0)
    assert [int((module.weight == 0).sum()) for module in (net.one, net.other)] == [10, 25]
