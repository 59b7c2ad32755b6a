"""The promises of roundings by what a layer computes: formulas and brute force, in float64."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from distill.compression.quantization.scheme import WeightScheme
from distill.compression.quantization.starts.adaround import adaround
from distill.compression.quantization.starts.blocks import each_weight, fitted_grid
from distill.compression.quantization.starts.equalize import awq_scale, smoothquant_scale
from distill.compression.quantization.starts.gptq import gptq, inverse_factor
from distill.compression.quantization.weights import Grid, grid, integers_of, values_of
from distill.core.utils.errors import UserError

TWO = WeightScheme(bits=2)
ROUNDINGS: dict[str, Callable[[Tensor, Tensor, Grid, WeightScheme], Tensor]] = {
    "gptq": gptq,
    "gptq, act_order": lambda rows, hessian, at, scheme: gptq(rows, hessian, at, scheme, act_order=True),
    "adaround": lambda rows, hessian, at, scheme: adaround(rows, hessian, at, scheme, steps=250),
}


def layer(seed: int, out: int = 4, width: int = 6, parts: int = 1) -> tuple[Tensor, Tensor]:
    """Weights, and the Hessian of inputs that depend on each other."""
    generator = torch.Generator().manual_seed(seed)
    mixed = torch.randn(parts, width, width, generator=generator)
    x = torch.randn(parts, 64, width, generator=generator) @ mixed
    return torch.randn(parts * out, width, generator=generator), x.mT @ x / 64


def losses(integers: Tensor, rows: Tensor, hessian: Tensor, at: Grid, scheme: WeightScheme) -> Tensor:
    """sum over i and j of d_i H_ij d_j for each output, by loops over the outputs."""
    change = (values_of(integers, at, scheme) - rows).double().unflatten(0, (len(hessian), -1))
    return torch.stack([d @ h.double() @ d for part, h in zip(change, hessian, strict=True) for d in part])


def optimum(rows: Tensor, hessian: Tensor, at: Grid, scheme: WeightScheme) -> Tensor:
    """The least loss of each output over all roundings."""
    low, high = scheme.bounds
    every = torch.tensor(list(itertools.product(range(low, high + 1), repeat=rows.shape[1]))).double()
    change = every * at.scale.double()[:, None, None] - rows.double()[:, None]
    return ((change @ hessian.double()) * change).sum(-1).amin(-1)


@pytest.mark.parametrize("name", ROUNDINGS)
def test_a_rounding_lies_between_the_best_of_all_and_the_nearest(name: str) -> None:
    found, nearest, least = [], [], []
    for seed in range(12):
        rows, hessian = layer(seed)
        at = grid(rows, TWO)
        integers = ROUNDINGS[name](rows, hessian, at, TWO)
        assert bool(((integers >= -1) & (integers <= 1) & (integers == integers.round())).all())
        found.append(losses(integers, rows, hessian, at, TWO))
        nearest.append(losses(integers_of(rows, at, TWO), rows, hessian, at, TWO))
        least.append(optimum(rows, hessian, at, TWO))
    assert bool((torch.cat(found) >= torch.cat(least) * (1 - 1e-6)).all())
    gap = (torch.cat(nearest) - torch.cat(least)).sum()
    closed = (torch.cat(nearest) - torch.cat(found)).sum() / gap
    assert 0.4 < closed <= 1


@pytest.mark.parametrize("name", ROUNDINGS)
def test_of_independent_inputs_the_nearest_is_the_best(name: str) -> None:
    rows, _ = layer(0)
    at = grid(rows, TWO)
    assert torch.equal(ROUNDINGS[name](rows, torch.eye(6)[None], at, TWO), integers_of(rows, at, TWO))


def test_gptq_is_the_rule_of_the_paper_written_out() -> None:
    """One input at a time: the optimal change of the rest, from the inverse Hessian of what is left, by elimination."""
    rows, hessian = layer(3, out=3)
    scheme = WeightScheme(bits=3, symmetric=False, granularity="group", group_size=3)
    at = grid(rows, scheme)
    scale, zero = (x.double() for x in each_weight(at, rows, scheme))
    left = hessian[0].double()
    left = left + 0.05 * left.diagonal().mean() * torch.eye(6)
    weights, expected = rows.double().clone(), torch.empty(3, 6)
    for j in range(6):
        inverse = torch.linalg.inv(left[j:, j:])
        q = (weights[:, j] / scale[:, j]).round() + zero[:, j]
        q = q.clamp(*scheme.bounds)
        error = weights[:, j] - scale[:, j] * (q - zero[:, j])
        weights[:, j:] -= error[:, None] / inverse[0, 0] * inverse[0]
        expected[:, j] = q
    assert torch.equal(gptq(rows, hessian, at, scheme, damping=0.05), expected)


def test_the_factor_is_that_of_the_inverse() -> None:
    _, hessian = layer(1, parts=2)
    hessian[0, 2], hessian[0, :, 2] = 0, 0  # an input that was always 0
    factor = inverse_factor(hessian, 0.01)
    damped = hessian.double()
    damped += 0.01 * damped.diagonal(dim1=1, dim2=2).mean(1)[:, None, None] * torch.eye(6)
    damped[0, 2, 2] = 1
    torch.testing.assert_close(factor.mT @ factor, torch.linalg.inv(damped), rtol=1e-5, atol=1e-5)
    assert torch.equal(factor, factor.triu())


def test_the_order_of_the_inputs_is_undone_and_how_many_go_at_a_time_changes_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows, hessian = layer(2)
    scheme, at = WeightScheme(bits=4), grid(rows, WeightScheme(bits=4))
    order = hessian[0].diagonal().argsort(descending=True)
    sorted_ = gptq(rows[:, order], hessian[:, order][:, :, order], at, scheme)
    assert torch.equal(gptq(rows, hessian, at, scheme, act_order=True)[:, order], sorted_)
    plain = gptq(rows, hessian, at, scheme)
    monkeypatch.setattr("distill.compression.quantization.starts.gptq._BLOCK", 2)
    assert torch.equal(gptq(rows, hessian, at, scheme), plain)


@pytest.mark.parametrize("name", ROUNDINGS)
def test_parts_are_rounded_as_layers_of_their_own_and_pruned_weights_stay_zero(name: str) -> None:
    scheme = WeightScheme(bits=4, symmetric=False)
    rows, hessian = layer(5, parts=2)
    gone = torch.rand(rows.shape, generator=torch.Generator().manual_seed(0)) < 0.5
    rows[gone] = 0
    at = grid(rows, scheme)
    together = ROUNDINGS[name](rows, hessian, at, scheme)
    for part in (0, 1):
        mine = slice(4 * part, 4 * part + 4)
        assert at.zero_point is not None
        own = ROUNDINGS[name](rows[mine], hessian[[part]], Grid(at.scale[mine], at.zero_point[mine]), scheme)
        assert torch.equal(together[mine], own)
    assert bool((values_of(together, at, scheme)[gone] == 0).all())


@pytest.mark.parametrize("granularity", ["tensor", "channel", "group"])
@pytest.mark.parametrize("symmetric", [True, False])
def test_a_fitted_grid_has_the_least_error_of_those_tried(granularity: str, symmetric: bool) -> None:
    size = 3 if granularity == "group" else None
    scheme = WeightScheme(bits=3, symmetric=symmetric, granularity=granularity, group_size=size)  # type: ignore[arg-type]
    rows, importance = layer(0)[0].exp(), torch.rand(4, 6, generator=torch.Generator().manual_seed(1))
    full = grid(rows, scheme)

    def error(at: Grid) -> Tensor:
        errors = (values_of(integers_of(rows, at, scheme), at, scheme) - rows).square() * importance
        blocks = {"tensor": errors.flatten()[None], "channel": errors, "group": errors.reshape(8, 3)}[granularity]
        return blocks.sum(-1)

    tried = [error(Grid(full.scale * (part / 20), full.zero_point)) for part in range(6, 21)]
    torch.testing.assert_close(error(fitted_grid(rows, scheme, importance)), torch.stack(tried).amin(0))


def test_smoothquant_shares_the_range_between_inputs_and_weights() -> None:
    x, w = torch.tensor([100.0, 4.0, 0.0, 3.0]), torch.tensor([0.25, 1.0, 2.0, 0.0])
    scale = smoothquant_scale(x, w, 0.5)
    torch.testing.assert_close(scale, torch.tensor([20.0, 2.0, 1.0, 1.0]))
    torch.testing.assert_close((x / scale)[:2], (w * scale)[:2])  # alpha = 0.5: as large on both sides
    torch.testing.assert_close(smoothquant_scale(x, w, 1.0)[:2], x[:2])


def test_awq_takes_the_exponent_with_the_least_error() -> None:
    rows, _ = layer(7, out=8, width=16)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(200, 16, generator=generator)
    x[:, 3] *= 30
    hessian, mean = (x.T @ x / 200)[None], x.abs().mean(0)
    scheme = WeightScheme(bits=3)

    def error(exponent: float) -> float:
        s = mean**exponent
        s = (s / (s.max() * s.min()).sqrt()).double()
        scaled = rows.double() * s
        step = scaled.abs().amax(1, True) / 3
        return float(((((scaled / step).round() * step / s - rows) @ x.T.double()) ** 2).sum())

    errors = {tried / 20: error(tried / 20) for tried in range(20)}
    scale, exponent = awq_scale([(rows, scheme)], hessian, mean)
    assert exponent == min(errors, key=lambda tried: errors[tried])
    assert exponent > 0
    expected = mean**exponent
    torch.testing.assert_close(scale, expected / (expected.max() * expected.min()).sqrt())


@pytest.mark.parametrize("wrong", ["alike", "infinite"])
def test_inputs_that_no_factor_is_found_for_are_one_message(wrong: str) -> None:
    hessian = torch.ones(1, 6, 6) if wrong == "alike" else torch.eye(6)[None] * torch.inf
    with pytest.raises(UserError, match=r"damping = 1e-20: inputs of a layer are not finite, or so alike"):
        inverse_factor(hessian, 1e-20)
