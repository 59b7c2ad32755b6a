"""The promises of what is pruned where weights are tied."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
from torch import nn

from distill.errors import UserError
from distill.prune.criteria import Magnitude
from distill.prune.granularity import Granularity
from distill.prune.plan import Masks, Plan


class Tied(nn.Module):
    """The weight of ``one`` is that of ``two`` and of the head, which is not pruned by itself."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.one, self.two, self.other, self.head = (nn.Linear(10, 10) for _ in range(4))
        self.two.weight = self.head.weight = self.one.weight


def pruned(overrides: Mapping[str, float]) -> tuple[nn.Module, Masks]:
    """To one half, but for the overrides."""
    plan = Plan(
        final=0.5,
        granularity=Granularity.parse("unstructured"),
        criterion=Magnitude(),
        scope="layer",
        kinds=(nn.Linear,),
        include=None,
        exclude=[],
        overrides=overrides,
        max_layer_sparsity=1.0,
        regrow=0.0,
    )
    net = Tied()
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
