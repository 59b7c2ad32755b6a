"""Pruning at once: SparseGPT makes up for what goes as least squares would, and each method has its sparsity."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from distill.compression.pruning.at_once import OneShot, prune
from distill.compression.pruning.granularity import Granularity
from distill.compression.pruning.one_shot import magnitude, sparsegpt, wanda
from distill.core.signals import Batch
from distill.core.utils.errors import UserError

SINGLE = Granularity()


def inputs(width: int, count: int = 200, seed: int = 0) -> Tensor:
    """Correlated, float64."""
    generator = torch.Generator().manual_seed(seed)
    mixed = torch.randn(count, width, generator=generator, dtype=torch.float64)
    return mixed @ (torch.eye(width) + 0.4 * torch.randn(width, width, generator=generator)).double()


def weights(out: int, width: int) -> Tensor:
    return torch.randn(out, width, generator=torch.Generator().manual_seed(5), dtype=torch.float64)


def hessian(x: Tensor) -> Tensor:
    return (x.T @ x / len(x))[None]


def one_by_one(rows: Tensor, h: Tensor, mask: Tensor, damping: float) -> Tensor:
    """Optimal brain surgeon by the book: input j leaves, with the inverse of what of H is still to come."""
    rows, h = rows.clone(), h + damping * h.diagonal().mean() * torch.eye(len(h), dtype=h.dtype)
    for j in range(rows.shape[1]):
        inverse = torch.linalg.inv(h[j:, j:])
        for i in range(len(rows)):
            if not mask[i, j]:
                rows[i, j:] -= rows[i, j] / inverse[0, 0] * inverse[0]
    return rows * mask


@pytest.mark.parametrize("granularity", ["unstructured", "2:4"])
def test_sparsegpt_is_brain_surgery_input_by_input(granularity: str) -> None:
    x, rows = inputs(16), weights(6, 16)
    found = sparsegpt(rows, hessian(x), 0.5, Granularity.parse(granularity), 0.01)
    torch.testing.assert_close(found, one_by_one(rows, hessian(x)[0], found != 0, 0.01), rtol=1e-9, atol=1e-9)
    assert int((found == 0).sum()) == 48
    if granularity == "2:4":
        assert ((found == 0).view(6, 4, 4).sum(-1) == 2).all()


def test_what_all_outputs_lose_first_is_made_up_for_as_by_least_squares() -> None:
    x, rows = inputs(12), weights(5, 12)
    rows[:, :5] = 0.0  # of an earlier pruning; what it computed is lost, and so is only what goes now
    rows[:, :5] += 1e-6
    found = sparsegpt(rows, hessian(x), 5 / 12, SINGLE, 1e-12)
    assert torch.equal(found == 0, (torch.arange(12) < 5).expand(5, 12))
    best = torch.linalg.lstsq(x[:, 5:], x @ rows.T).solution.T
    torch.testing.assert_close(found[:, 5:], best, rtol=1e-6, atol=1e-8)


def test_blocks_of_inputs_change_no_result_of_groups_and_keep_the_sparsity_of_each() -> None:
    x, rows = inputs(272, 600), weights(4, 272)
    found = sparsegpt(rows, hessian(x), 0.5, Granularity.parse("4:8"), 0.01)
    torch.testing.assert_close(found, one_by_one(rows, hessian(x)[0], found != 0, 0.01), rtol=1e-7, atol=1e-7)
    single = sparsegpt(rows, hessian(x), 0.25, SINGLE, 0.01)
    assert [int((part == 0).sum()) for part in single.split(128, 1)] == [128, 128, 16]


def test_each_method_beats_the_one_before_on_correlated_inputs() -> None:
    x, rows = inputs(64, 500), weights(20, 64)
    x[:, ::7] *= 8

    def error(found: Tensor) -> float:
        assert int((found == 0).sum()) == 640
        return float((x @ (found - rows).T).square().mean())

    errors = [error(method(rows, hessian(x), 0.5, SINGLE, 0.01)) for method in (magnitude, wanda, sparsegpt)]
    assert errors[0] > 1.5 * errors[1] > 2 * errors[2]
    mask = wanda(rows, hessian(x), 0.5, SINGLE) != 0
    best = torch.stack([_least_squares(x, row, kept) for row, kept in zip(rows, mask, strict=True)])
    ours = one_by_one(rows, hessian(x)[0], mask, 1e-9)
    assert error(best) <= error(ours) < errors[1]


def _least_squares(x: Tensor, row: Tensor, kept: Tensor) -> Tensor:
    found = torch.zeros_like(row)
    found[kept] = torch.linalg.lstsq(x[:, kept], (x @ row)[:, None]).solution[:, 0]
    return found


def test_wanda_compares_within_an_output_and_groups_of_a_convolution_have_their_own_inputs() -> None:
    rows = torch.tensor([[1.0, -2.0, 3.0, 0.5], [9.0, 8.0, 7.0, 6.0]])
    both = torch.stack([torch.diag(torch.tensor([16.0, 1.0, 1.0, 4.0])), torch.diag(torch.tensor([0.0, 1, 4, 9]))])
    found = wanda(rows, both, 0.5, SINGLE)
    assert torch.equal(found, torch.tensor([[1.0, 0.0, 3.0, 0.0], [0.0, 0.0, 7.0, 6.0]]))


@pytest.mark.parametrize("granularity", ["unstructured", "2:4"])
def test_weights_that_are_zero_stay_so(granularity: str) -> None:
    x, rows = inputs(136, 300), weights(3, 136)
    rows[:, 128:] = 0.0  # more of them than half, after others that go
    found = sparsegpt(rows, hessian(x), 0.5, Granularity.parse(granularity), 0.01)
    assert (found[:, 128:] == 0).all()
    assert int((found == 0).sum()) == 3 * (64 + 8)


class Net(nn.Module):
    """A grouped convolution with a kernel, and maps that read its places."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(4, 8, 3, stride=2, groups=2)
        self.hidden, self.head = nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.second(self.first(x).relu()).relu()
        return self.head(self.hidden(x.mean((2, 3))).relu())


def images() -> list[Tensor]:
    return [torch.randn(16, 2, 9, 9, generator=torch.Generator().manual_seed(seed)) for seed in range(3)]


def test_a_convolution_is_pruned_as_the_map_of_its_patches() -> None:
    net, plain = Net(), Net()
    step = prune(net, OneShot("sparsegpt", 0.5), images(), include=["second"])
    assert step["layers"] == {"second": {"weights": 144, "zeros": 72}}
    with torch.no_grad():
        x = torch.cat([plain.first(batch).relu() for batch in images()])
    for group in range(2):
        patches = nn.functional.unfold(x[:, 2 * group : 2 * group + 2], 3, stride=2)
        # [batch, channel, place in the kernel, place] as inputs in the order place in the kernel, channel.
        read = patches.unflatten(1, (2, 9)).transpose(1, 2).flatten(1, 2).transpose(1, 2).flatten(0, 1).double()
        rows = plain.second.weight[4 * group : 4 * group + 4].detach().permute(0, 2, 3, 1).flatten(1).double()
        expected = sparsegpt(rows, hessian(read), 0.5, SINGLE, 0.01)
        ours = net.second.weight[4 * group : 4 * group + 4].permute(0, 2, 3, 1).flatten(1).double()
        torch.testing.assert_close(ours, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("method", ["magnitude", "wanda", "sparsegpt"])
def test_layers_read_what_the_pruned_ones_before_them_give(method: str) -> None:
    net = Net()
    before = net(torch.cat(images()))
    step = prune(net, OneShot(method, 0.5), images())
    assert {name: round(of["zeros"] / of["weights"], 2) for name, of in step["layers"].items()} == dict.fromkeys(
        ("first", "second", "hidden"), 0.5
    )
    assert (step["criterion"], step["granularity"], step["target"]) == (method, "unstructured", 0.5)
    assert not net.training
    assert not torch.equal(net(torch.cat(images())), before)
    assert not any(module._forward_pre_hooks for module in net.modules())


def test_padding_is_left_out() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 8), nn.Linear(8, 2))
    x = torch.randn(4, 5, 6)
    tokens = torch.arange(5) < torch.tensor([5, 3, 4, 2])[:, None]
    twin = nn.Sequential(nn.Linear(6, 8), nn.Linear(8, 2))
    twin.load_state_dict(net.state_dict())

    def read(model: nn.Module, batch: Batch) -> Any:
        return model(batch.inputs["x"])

    padded = torch.where(tokens[..., None], x, 9 * torch.randn(4, 5, 6))
    prune(net, OneShot("sparsegpt"), [Batch({"x": padded}, tokens=tokens)], read)
    prune(twin, OneShot("sparsegpt"), [Batch({"x": x[tokens]})], read)
    torch.testing.assert_close(net[0].weight, twin[0].weight)


@pytest.mark.parametrize(
    ("make", "key"),
    [
        (lambda: OneShot("gptq"), "method"),
        (lambda: OneShot(sparsity=1.0), "sparsity"),
        (lambda: OneShot(granularity="2:4", sparsity=0.6), "sparsity"),
        (lambda: OneShot(granularity="4x1"), "granularity"),
        (lambda: OneShot(damping=0.0), "damping"),
        (lambda: prune(Net(), OneShot("magnitude", granularity="2:4"), include=["first"]), "prune.granularity"),
        (lambda: prune(Net(), OneShot("magnitude"), include=["third"]), "prune.include.0"),
    ],
)
def test_what_does_not_fit_is_refused(make: Callable[[], Any], key: str) -> None:
    with pytest.raises(UserError) as caught:
        make()
    assert caught.value.key == key
