"""Channels that hang together are found by following one pass, and what is removed computes what was masked."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from distill.compression.structure.channels import Channels, Run, find_channels, multiplications
from distill.compression.structure.masking import factors
from distill.compression.structure.removal import remove_units
from distill.compression.structure.shapes import set_shapes
from distill.compression.structure.tracing import Trace
from distill.core.utils.errors import UserError


@pytest.fixture
def run() -> Run:
    x = torch.randn(2, 1, 12, 12, generator=torch.Generator().manual_seed(1))
    return lambda net: [net(x.to(next(net.parameters()).dtype))]


Found = dict[str, tuple[int, set[tuple[str, int]]]]


def found(channels: Channels) -> Found:
    """Owner -> how many units, and tensors and axes that lose them."""
    return {
        one.owner: (one.count, {(part.parameter, part.axis) for part in (*one.slices, *one.buffers)})
        for one in channels.units
    }


def norm(name: str) -> set[tuple[str, int]]:
    return {(f"{name}.{own}", 0) for own in ("weight", "bias", "running_mean", "running_var")}


def test_what_a_residual_sum_ties_is_one_group(conv_nets: Any, run: Run) -> None:
    channels = find_channels(conv_nets.Residual(8), run)
    assert (channels.fixed, channels.untried) == ((), ())
    stream = {("stem.0.weight", 0), ("b.0.weight", 0), ("a.0.weight", 1), ("c.0.weight", 1), ("short.0.weight", 1)}
    wide = {("d.0.weight", 0), ("short.0.weight", 0), ("head.weight", 1)}
    assert found(channels) == {
        "stem.0": (8, stream | norm("stem.1") | norm("b.1")),
        "a.0": (8, {("a.0.weight", 0), ("b.0.weight", 1)} | norm("a.1")),
        "c.0": (16, {("c.0.weight", 0), ("d.0.weight", 1)} | norm("c.1")),
        "d.0": (16, wide | norm("d.1") | norm("short.1")),
    }


def test_depthwise_gates_and_flattened_places_go_with_their_channel(conv_nets: Any, run: Run) -> None:
    channels = find_channels(conv_nets.Inverted(), run)
    groups = found(channels)
    assert {owner: count for owner, (count, _) in groups.items()} == {
        "stem.0": 6,
        "expand.0": 12,
        "squeeze": 5,
        "hidden": 7,
    }
    assert {("depth.0.weight", 0), ("excite.bias", 0), ("squeeze.weight", 1), ("project.0.weight", 1)} < groups[
        "expand.0"
    ][1]
    (flat,) = [
        part for one in channels.units for part in one.slices if part.parameter == "hidden.weight" and part.reads
    ]
    assert torch.equal(flat.features, torch.arange(54).view(6, 9))


def test_groups_go_whole_and_concatenations_keep_their_places(conv_nets: Any, run: Run) -> None:
    channels = find_channels(conv_nets.Mixed(), run)
    assert channels.untried == ()
    (up,) = [one for one in channels.units if one.owner == "up"]
    assert {(part.parameter, part.features.shape[1]) for part in up.slices} == {
        ("up.weight", 2),
        ("up.bias", 2),
        ("act.weight", 2),
        ("scale", 2),
        ("wide.weight", 2),
    } | {("wide.bias", 3), ("head.weight", 3)}


@pytest.mark.parametrize("name", ["Residual", "Inverted", "Mixed", "Patches"])
def test_removed_channels_leave_what_masks_leave(name: str, conv_nets: Any, run: Run) -> None:
    net = conv_nets.randomize(getattr(conv_nets, name)()).double().eval()
    channels = find_channels(net, run)
    assert channels.units
    generator = torch.Generator().manual_seed(3)
    stay = [torch.rand(one.count, generator=generator) < 0.6 for one in channels.units]
    for mask in stay:
        mask[0] = True
        mask[-1] = False
    masked, removed = copy.deepcopy(net), copy.deepcopy(net)
    weights = dict(masked.named_parameters())
    with torch.no_grad():
        for one, mask in zip(channels.units, stay, strict=True):
            for name, factor in factors(one, mask, weights):
                weights[name].mul_(factor)
        remove_units(removed, list(zip(channels.units, stay, strict=True)))
        torch.testing.assert_close(run(removed), run(masked), rtol=1e-12, atol=1e-12)
        assert not torch.allclose(run(removed)[0], run(net)[0], rtol=1e-3)
    assert sum(p.numel() for p in removed.parameters()) < 0.8 * sum(p.numel() for p in net.parameters())
    assert str(removed) == str(rebuilt(net, removed))  # widths and groups that the modules tell
    rebuilt(net, removed).load_state_dict(removed.state_dict())


def rebuilt(net: nn.Module, removed: nn.Module) -> nn.Module:
    fresh = copy.deepcopy(net)
    set_shapes(fresh, {name: list(tensor.shape) for name, tensor in removed.state_dict().items() if tensor.dim()})
    return fresh


class Net(nn.Module):
    """Of one function."""

    def __init__(self, compute: Callable[[Any, Tensor], Tensor], **layers: nn.Module) -> None:
        super().__init__()
        self.compute = compute
        for name, layer in layers.items():
            self.add_module(name, layer)
        self.last, self.head = nn.Conv2d(8, 6, 3), nn.Linear(6, 3)

    def forward(self, input: Tensor) -> Tensor:
        return self.head(self.last(self.compute(self, input)).relu().mean((2, 3)))


def normed(y: Tensor, **how: Any) -> Tensor:
    return y / (torch.linalg.vector_norm(y, how.pop("p", 2), keepdim=True, **how) + 1)


def _shuffled(net: Any, x: Tensor) -> Tensor:
    left, right = net.a(x).chunk(2, 1)
    return torch.cat([left, net.b(right)], 1)


def _deeper(net: Any, x: Tensor) -> Tensor:
    return x + net.b(x) if net.training else x


@pytest.mark.parametrize(
    ("net", "fixed"),
    [
        (Net(lambda net, x: net.a(x).softmax(1), a=nn.Conv2d(1, 8, 3)), ("softmax",)),
        (Net(lambda net, x: net.n(net.a(x)), a=nn.Conv2d(1, 8, 3), n=nn.LayerNorm([8, 10, 10])), ("layer_norm in n",)),
        (Net(lambda net, x: net.a(x) * net.a(x).mean(1, keepdim=True), a=nn.Conv2d(1, 8, 3)), ("mean",)),
        (Net(lambda net, x: normed(net.a(x), dim=1), a=nn.Conv2d(1, 8, 3)), ("linalg_vector_norm",)),
        (Net(lambda net, x: normed(net.a(x), p=3, dim=1), a=nn.Conv2d(1, 8, 3)), ("linalg_vector_norm",)),
        (Net(lambda net, x: nn.functional.normalize(net.a(x), dim=1), a=nn.Conv2d(1, 8, 3)), ("linalg_vector_norm",)),
        (Net(lambda net, x: normed(net.a(x), dim=None), a=nn.Conv2d(1, 8, 3)), ("linalg_vector_norm",)),
        (Net(lambda net, x: net.a(x) + torch.ones(8, 1, 1), a=nn.Conv2d(1, 8, 3)), ()),
        (Net(lambda net, x: net.a(x).expand(-1, 8, -1, -1), a=nn.Conv2d(1, 1, 3)), ()),
    ],
)
def test_what_mixes_channels_keeps_them_and_is_named(net: nn.Module, fixed: tuple[str, ...], run: Run) -> None:
    channels = find_channels(net, run)
    assert [one.owner for one in channels.units] == ["last"]
    assert channels.untried == ()
    assert channels.fixed == tuple(f"native_{one}" if "layer" in one else one for one in fixed)


@pytest.mark.parametrize(
    "compute",
    [
        lambda y: normed(y, dim=(2, 3)),
        lambda y: normed(y, p=1, dim=(2, 3)),
        lambda y: normed(y, p=3, dim=3),
        lambda y: nn.functional.normalize(y, p=1, dim=2),
        lambda y: y / (y.var((2, 3), correction=0, keepdim=True) + 1),
        lambda y: torch.maximum(y, torch.zeros(())) + torch.max(torch.zeros(1, 1, 1), y),
    ],
)
def test_axes_that_are_reduced_are_read_by_their_name(compute: Callable[[Tensor], Tensor], run: Run) -> None:
    """Over places a norm is each channel's own, whatever its order: the trial, which knows no operator, agrees."""
    channels = find_channels(Net(lambda net, x: compute(net.a(x)), a=nn.Conv2d(1, 8, 3)), run)
    assert (channels.fixed, channels.untried) == ((), ())
    assert [one.owner for one in channels.units] == ["a", "last"]


def test_an_operator_whose_rule_fails_keeps_its_channels_and_is_named(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise TypeError("'float' object is not iterable")

    monkeypatch.setattr(Trace, "_glu_rule", fail)
    channels = find_channels(Net(lambda net, x: net.g(net.a(x)), a=nn.Conv2d(1, 16, 3), g=nn.GLU(1)), run)
    assert channels.fixed == ("glu in g",)
    assert [one.owner for one in channels.units] == ["last"]


@pytest.mark.parametrize(
    "net",
    [
        Net(_shuffled, a=nn.Conv2d(1, 8, 3), b=nn.Conv2d(4, 4, 3, padding=1)),  # halves of what is left are others
        Net(lambda net, x: net.a(x)[:, :8], a=nn.Conv2d(1, 9, 3)),
        Net(lambda net, x: net.a(x).view(-1, 8, 10, 10), a=nn.Conv2d(1, 8, 3)),
        Net(
            lambda net, x: net.a(x) + (net.b(net.a(x)) if net.training else 0),
            a=nn.Conv2d(1, 8, 3),
            b=nn.Conv2d(8, 8, 1),
        ),
    ],
)
def test_code_that_counts_its_channels_is_found_out_by_trying(net: nn.Module, run: Run) -> None:
    channels = find_channels(net, run)
    assert set(channels.untried) >= {"a"}
    assert "a" not in found(channels)
    assert found(channels)["last"][0] == 6


def test_the_model_is_left_as_it_was(conv_nets: Any, run: Run) -> None:
    net = conv_nets.Residual(4).train()
    before = copy.deepcopy(net.state_dict())
    state = torch.get_rng_state()
    find_channels(net, run)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert net.training
    assert torch.equal(torch.get_rng_state(), state)
    assert not any(module._forward_hooks for module in net.modules())


def test_multiplications_are_counted_by_hand(run: Run) -> None:
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(400, 5))
    assert multiplications(net, run) == 2 * (100 * 9 * 4 + 400 * 5)


@pytest.mark.parametrize("shapes", [{"0.weight": [5, 1, 3, 3]}, {"0.weight": [4, 1]}, {"1.weight": [1]}])
def test_shapes_of_another_net_are_refused(shapes: dict[str, list[int]]) -> None:
    with pytest.raises(UserError, match="of which"):
        set_shapes(nn.Sequential(nn.Conv2d(1, 4, 3)), shapes)
