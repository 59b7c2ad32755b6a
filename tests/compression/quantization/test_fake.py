"""The promises of rounding to a grid and back, against integers chosen beforehand and against torch's own operators."""

from __future__ import annotations

import itertools
import math
from decimal import ROUND_HALF_EVEN, Decimal

import numpy as np
import pytest
import torch
from torch import Tensor

from distill.compression.quantization.fake import (
    affine_qparams,
    fake_quantize,
    fake_quantize_learned,
    lsq_gradient_factor,
    lsq_initial_scale,
    round_to_grid,
    symmetric_scale,
)
from distill.compression.quantization.scheme import BITS, ActivationScheme, WeightScheme
from distill.compression.quantization.weights import (
    Grid,
    count,
    fake_quantize_rows,
    fake_quantize_rows_learned,
    grid,
    initial_scale,
    integers_of,
    scale_shape,
    values_of,
)

SHAPE = (6, 24)
GRANULARITIES = [("tensor", None), ("channel", None), ("group", 8)]
SCHEMES = [
    WeightScheme(bits=bits, granularity=granularity, group_size=size, symmetric=symmetric)  # type: ignore[arg-type]
    for bits, (granularity, size), symmetric in itertools.product(BITS, GRANULARITIES, (True, False))
] + [WeightScheme(reduced_range=True)]


def ends(scheme: WeightScheme) -> tuple[int, int]:
    """The range of integers, written out once more."""
    bits = 7 if scheme.reduced_range else scheme.bits
    return (
        (-(2 ** (bits - 1)) + 1, 2 ** (bits - 1) - 1) if scheme.symmetric else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    )


def known(scheme: WeightScheme, seed: int = 0) -> tuple[Tensor, np.ndarray, np.ndarray, np.ndarray]:
    """Weights made of integers q: scale * (q - zero point + less than half a step); the ends of a block are exact."""
    random = np.random.default_rng(seed)
    smallest, largest = ends(scheme)
    per_block = {"tensor": SHAPE[0] * SHAPE[1], "channel": SHAPE[1], "group": scheme.group_size}[scheme.granularity]
    blocks = SHAPE[0] * SHAPE[1] // per_block  # type: ignore[operator]
    q = random.integers(smallest, largest + 1, (blocks, per_block))
    off = random.uniform(-0.45, 0.45, q.shape)
    if scheme.symmetric:
        zero = np.zeros((blocks, 1), int)
        q[:, 3] = random.choice([smallest, largest], blocks)
        off[:, 3] = 0
    else:
        zero = random.integers(smallest, largest + 1, (blocks, 1))
        q[:, 3], q[:, 5] = smallest, largest
        off[:, (3, 5)] = 0
    scale = random.uniform(1e-3, 1.0, (blocks, 1))
    step = np.clip(q - zero + off, smallest - zero, largest - zero)
    weights = torch.tensor((scale * step).reshape(SHAPE), dtype=torch.float32)
    return weights, q.reshape(SHAPE), scale, (scale * (q - zero)).reshape(SHAPE)


@pytest.mark.parametrize(
    "scheme", SCHEMES, ids=lambda s: f"{s.bits}-{s.granularity}-{'sym' if s.symmetric else 'asym'}"
)
def test_weights_become_the_integers_they_were_made_of(scheme: WeightScheme) -> None:
    weights, q, scale, expected = known(scheme)
    at = grid(weights, scheme)
    np.testing.assert_allclose(at.scale.double().numpy().reshape(-1, 1), scale, rtol=1e-6)
    assert tuple(at.scale.shape) == scale_shape(SHAPE, scheme)
    np.testing.assert_allclose(fake_quantize_rows(weights, at, scheme).double().numpy(), expected, rtol=3e-6, atol=0)
    np.testing.assert_array_equal(integers_of(weights, at, scheme).numpy(), q)


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
def test_integers_and_scales_give_the_fake_quantized_weights_to_the_bit(scheme: WeightScheme) -> None:
    weights = torch.randn(SHAPE)
    at = grid(weights, scheme)
    fake = fake_quantize_rows(weights, at, scheme)
    q = integers_of(weights, at, scheme)
    smallest, largest = ends(scheme)
    assert q.min() >= smallest
    assert q.max() <= largest
    assert torch.equal(values_of(q.to(torch.int16).float(), at, scheme), fake)
    assert torch.equal(integers_of(fake, at, scheme), q), "weights on the grid are found again"


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
def test_zero_stays_exactly_zero(scheme: WeightScheme) -> None:
    # Trap 25: also where all other weights lie on one side of it, and where a whole block was pruned.
    weights = torch.rand(SHAPE) + 0.3
    weights[torch.rand(SHAPE) < 0.5] = 0
    weights[2] = 0
    fake = fake_quantize_rows(weights, grid(weights, scheme), scheme)
    assert (fake[weights == 0] == 0).all()
    assert fake.isfinite().all()
    if scheme.symmetric:
        learned = fake_quantize_rows_learned(weights, initial_scale(weights, scheme), scheme, count(SHAPE, scheme))
        assert (learned[weights == 0] == 0).all()
        assert learned.isfinite().all()


@pytest.mark.parametrize("scheme", [s for s in SCHEMES if s.symmetric], ids=str)
def test_rounding_agrees_with_torchs_operators(scheme: WeightScheme) -> None:
    weights = torch.randn(SHAPE)
    at = grid(weights, scheme)
    mine = fake_quantize_rows(weights, at, scheme)
    flat, scales = weights.reshape(max(1, at.scale.numel()), -1), at.scale.reshape(-1)
    zeros = torch.zeros(len(scales), dtype=torch.int32)
    theirs = torch.fake_quantize_per_channel_affine(flat, scales, zeros, 0, *scheme.bounds)
    assert torch.equal(mine, theirs.view(SHAPE))


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", BITS)
def test_halves_are_rounded_to_even(bits: int, symmetric: bool) -> None:
    # Weights in half steps of a scale that is a power of two, so that every second one is a tie and none is nearly one.
    # An odd zero point is added after rounding.
    smallest, largest = -(2 ** (bits - 1)) + 1, 2 ** (bits - 1) - symmetric
    scheme, scale = WeightScheme(bits=bits, symmetric=symmetric, granularity="tensor"), 0.25
    halves = range(2 * smallest, 2 * largest + 1)
    weights = torch.tensor([[half * scale / 2 for half in halves]])
    even = [float((Decimal(half) / 2).quantize(Decimal(1), ROUND_HALF_EVEN)) for half in halves]
    at = grid(weights, scheme)
    assert at.scale == scale
    shift = 0 if at.zero_point is None else at.zero_point
    assert shift == (0 if symmetric else -1)
    assert (integers_of(weights, at, scheme) - shift).tolist() == [even]
    assert (fake_quantize_rows(weights, at, scheme) / scale).tolist() == [even]
    if symmetric:
        learned = fake_quantize_rows_learned(weights, torch.tensor(scale), scheme, weights.numel())
        assert (learned / scale).tolist() == [even]


def test_a_peak_weight_is_not_clipped_and_keeps_its_gradient() -> None:
    # The scale follows the largest weight, so nothing may be lost at the ends, whatever the last bit of the division.
    weights = (torch.randn(2000, 7) * torch.logspace(-20, 20, 2000)[:, None]).requires_grad_()
    for bits in BITS:
        scheme = WeightScheme(bits=bits)
        at = grid(weights, scheme)
        assert integers_of(weights, at, scheme).abs().amax(1).eq(scheme.bounds[1]).all()
        steps = fake_quantize_rows(weights, at, scheme) / at.scale[:, None]
        assert steps.abs().max() < scheme.bounds[1] * (1 + 1e-6) + 1e-3
    fake_quantize_rows(weights, at, scheme).sum().backward()
    assert weights.grad is not None
    assert weights.grad.eq(1).all()


@pytest.mark.parametrize("bounds", [(0, 255), (-127, 127), (0, 15)])
def test_gradient_is_clipped_outside_the_range(bounds: tuple[int, int]) -> None:
    # Trap 26, against torch's operator.
    x = torch.linspace(-2, 3, 1001)
    scale = torch.tensor(2.0 / (bounds[1] - bounds[0]))
    zero_point = torch.tensor(float(bounds[0] + round((bounds[1] - bounds[0]) / 3)))
    mine, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    out = fake_quantize(mine, scale, zero_point, bounds)
    peer = torch.fake_quantize_per_tensor_affine(theirs, scale, zero_point.int(), *bounds)
    assert torch.equal(out, peer)
    gradient = torch.rand_like(x) + 0.5
    out.backward(gradient)
    peer.backward(gradient)
    assert mine.grad is not None
    assert torch.equal(mine.grad, theirs.grad)
    assert 0 < (mine.grad == 0).sum() < len(x)


def test_a_nan_stays_a_nan() -> None:
    x = torch.tensor([1.0, math.nan])
    assert fake_quantize(x, torch.tensor(0.1), torch.tensor(0.0), (-7, 7))[1].isnan()
    assert round_to_grid(x, torch.tensor(0.1))[1].isnan()


@pytest.mark.parametrize(("low", "high"), [(-1.0, 2.0), (0.5, 2.0), (-3.0, -1.0), (0.0, 0.0), (-1e-44, 1e-44)])
@pytest.mark.parametrize("bounds", [(0, 255), (-8, 7)])
def test_zero_is_an_integer_of_every_affine_grid(low: float, high: float, bounds: tuple[int, int]) -> None:
    scale, zero_point = affine_qparams(torch.tensor(low), torch.tensor(high), bounds)
    assert scale > 0
    assert zero_point == zero_point.round()
    assert bounds[0] <= zero_point <= bounds[1]
    x = torch.tensor([0.0, low, high])
    out = fake_quantize(x, scale, zero_point, bounds)
    assert out[0] == 0
    torch.testing.assert_close(out, x, rtol=0, atol=float(scale) * 0.501 + 1e-6)


def test_half_precision_is_rounded_in_float32() -> None:
    weights = torch.randn(4, 256, dtype=torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        at = grid(weights, WeightScheme())
        fake = fake_quantize_rows(weights, at, WeightScheme())
        x = fake_quantize(weights, *affine_qparams(torch.tensor(-2.0), torch.tensor(2.0), (0, 255)), (0, 255))
    assert at.scale.dtype is torch.float32
    assert x.dtype is torch.float32
    expected = fake_quantize_rows(weights.float(), grid(weights.float(), WeightScheme()), WeightScheme())
    assert torch.equal(fake, expected.bfloat16())


# ---------------------------------------------------------------------- learned step size


def surrogate(x: np.ndarray, s: float, at: float, q: int) -> np.ndarray:
    """What LSQ differentiates: rounding is the identity plus a constant, fixed at the scale ``at``."""
    clipped = np.clip(x / at, -q, q)
    return s * (np.clip(x / s, -q, q) + (np.rint(clipped) - clipped))  # type: ignore[no-any-return]


@pytest.mark.parametrize("bits", BITS)
def test_gradient_of_a_learned_scale_is_that_of_its_definition(bits: int) -> None:
    q = 2 ** (bits - 1) - 1
    random = np.random.default_rng(bits)
    x = random.normal(size=(3, 50))
    scales = np.array([1.7, 0.9, 4.0]) / q
    upstream = random.normal(size=x.shape)
    tensor = torch.tensor(x, requires_grad=True)
    scale = torch.tensor(scales[:, None], requires_grad=True)
    out = fake_quantize_learned(tensor, scale, q, 0.125)
    out.backward(torch.tensor(upstream))
    assert tensor.grad is not None
    assert scale.grad is not None
    expected = scales[:, None] * np.clip(np.rint(x / scales[:, None]), -q, q)
    np.testing.assert_allclose(out.detach().numpy(), expected, rtol=1e-12)
    h = 1e-7
    for row, s in enumerate(scales):
        up, down = (surrogate(x[row], s + d, s, q) for d in (h, -h))
        numeric = 0.125 * ((up - down) / (2 * h) * upstream[row]).sum()
        assert float(scale.grad[row]) == pytest.approx(numeric, rel=1e-5)

        inside = np.abs(x[row] / s) < q
        assert inside.sum() > 0
        np.testing.assert_array_equal(tensor.grad[row].numpy(), np.where(inside, upstream[row], 0))


def test_a_scale_is_shared_by_tensor_channel_or_group() -> None:
    weights = torch.randn(SHAPE, dtype=torch.float64)
    for granularity, size in GRANULARITIES:
        scheme = WeightScheme(bits=3, granularity=granularity, group_size=size, learned=True)  # type: ignore[arg-type]
        scale = initial_scale(weights, scheme).requires_grad_()
        per = count(SHAPE, scheme)
        assert scale.numel() * per == weights.numel()
        blocks = weights.reshape(-1, per)
        torch.testing.assert_close(scale.flatten(), 2 * blocks.abs().mean(1) / math.sqrt(3))
        fake_quantize_rows_learned(weights, scale, scheme, per).sum().backward()
        t = (blocks / scale.detach().reshape(-1, 1)).numpy()
        slope = np.where(np.abs(t) < 3, np.rint(t) - t, np.sign(t) * 3).sum(1) / math.sqrt(per * 3)
        assert scale.grad is not None
        np.testing.assert_allclose(scale.grad.flatten().numpy(), slope, rtol=1e-9)


def test_a_learned_scale_may_cross_zero() -> None:
    x = torch.randn(20)
    for value in (-0.3, 0.0, 0.3):
        scale = torch.tensor(value, requires_grad=True)
        assert fake_quantize_learned(x, scale, 7, 1.0).isfinite().all()
    assert torch.equal(
        fake_quantize_learned(x, torch.tensor(-0.3), 7, 1.0), fake_quantize_learned(x, torch.tensor(0.3), 7, 1.0)
    )


def test_small_formulas() -> None:
    assert lsq_gradient_factor(16, 4) == pytest.approx(1 / 8)
    assert float(lsq_initial_scale(torch.tensor(0.5), 4)) == pytest.approx(0.5)
    assert float(symmetric_scale(torch.tensor(12.7), 127)) == pytest.approx(0.1)
    assert Grid(torch.tensor(1.0), None).zero_point is None


@pytest.mark.parametrize("bits", BITS)
def test_a_number_and_its_negative_are_both_on_a_symmetric_grid(bits: int) -> None:
    largest = 2 ** (bits - 1) - 1
    for scheme in (WeightScheme(bits=bits), ActivationScheme(bits=bits, symmetric=True)):  # type: ignore[arg-type]
        assert scheme.bounds == (-largest, largest)
    far = torch.tensor([-1e6, 1e6])  # beyond the range
    rounded = fake_quantize(far, torch.tensor(0.5), torch.tensor(0.0), scheme.bounds)
    assert rounded.tolist() == [-0.5 * largest, 0.5 * largest]
