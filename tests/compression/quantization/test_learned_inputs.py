"""The promises of static inputs whose grid is trained."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.pytorch_utils import Conv1D

from distill.compression.quantization.fake import fake_quantize_learned_affine
from distill.compression.quantization.layers import QuantizedLayer, quantize_layer
from distill.compression.quantization.learned_inputs import fake_quantize_input_learned, learned_qparams, no_change
from distill.compression.quantization.lifecycle import follow, freeze, restore
from distill.compression.quantization.metrics import quantization_metrics
from distill.compression.quantization.ptq import quantize
from distill.compression.quantization.scheme import BITS, ActivationScheme, LayerScheme, WeightScheme
from distill.core.utils.errors import UserError

LAYERS = {
    "linear": (lambda: nn.Linear(8, 6), (3, 5, 8)),
    "transposed": (lambda: Conv1D(6, 8), (3, 5, 8)),
    "conv1d": (lambda: nn.Conv1d(4, 6, 3, padding=1), (3, 4, 7)),
    "conv2d": (lambda: nn.Conv2d(4, 6, 2, padding=1), (3, 4, 5, 5)),
}
SYMMETRIC = [True, False]


def learned(symmetric: bool, bits: int = 8) -> ActivationScheme:
    return ActivationScheme(bits=bits, symmetric=symmetric, learned=True)


def made(name: str, inputs: ActivationScheme, plain: nn.Module | None = None) -> tuple[QuantizedLayer, Tensor]:
    """A layer that knows the range of its input, and that input."""
    torch.manual_seed(0)
    make, shape = LAYERS[name]
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    layer = quantize_layer(plain or make(), LayerScheme(weights=WeightScheme(), activations=inputs))
    layer.observing = True
    layer.train()(x)
    follow([layer])
    layer.observing = False
    return layer, x


def surrogate(x: np.ndarray, scale: float, low: float, at: tuple[float, float], steps: int) -> np.ndarray:
    """What is differentiated: rounding is the identity plus a constant, fixed at the scale and the low end ``at``."""
    before = np.clip((x - at[1]) / at[0], 0, steps)
    return scale * (np.clip((x - low) / scale, 0, steps) + np.rint(before) - before) + low  # type: ignore[no-any-return]


@pytest.mark.parametrize("bits", BITS[:-1])  # of 16 a range changed so much holds all values
@pytest.mark.parametrize("symmetric", SYMMETRIC)
def test_gradients_are_those_of_the_definition(bits: int, symmetric: bool) -> None:
    scheme, random, h, features = learned(symmetric, bits), np.random.default_rng(bits), 1e-7, 7
    steps, largest = (2**bits - 2, 2 ** (bits - 1) - 1) if symmetric else (2**bits - 1, 2**bits - 1)
    seen = torch.tensor([-1.3, 1.7], dtype=torch.float64)
    change = torch.tensor([0.011] if symmetric else [0.011, -0.13], dtype=torch.float64, requires_grad=True)
    x = torch.tensor(random.normal(size=(40, 7)), requires_grad=True)
    upstream = random.normal(size=x.shape)
    out = fake_quantize_input_learned(x, seen, change, scheme, features)
    out.backward(torch.tensor(upstream))
    assert x.grad is not None
    assert change.grad is not None

    # By hand: the observed scale, changed; a low end that makes 0 an integer.
    scale = (1.7 / largest if symmetric else 3.0 / largest) + 0.011
    low = -largest * scale if symmetric else scale * np.rint((-1.3 - 0.13) / scale)
    values = x.detach().numpy()
    t = (values - low) / scale
    np.testing.assert_allclose(out.detach().numpy(), scale * np.clip(np.rint(t), 0, steps) + low, atol=1e-12)
    inside = (t > 0) & (t < steps)
    assert 0 < inside.sum() < inside.size
    np.testing.assert_array_equal(x.grad.numpy(), np.where(inside, upstream, 0))

    factor = 1 / np.sqrt(features * largest)

    def slope(of_scale: float, of_low: float) -> float:
        up, down = (
            surrogate(values, scale + sign * h * of_scale, low + sign * h * of_low, (scale, low), steps)
            for sign in (1, -1)
        )
        return float(factor * ((up - down) / (2 * h) * upstream).sum())

    # A symmetric grid's low end moves with its scale.
    expected = [slope(1, -largest)] if symmetric else [slope(1, 0), slope(0, 1)]
    np.testing.assert_allclose(change.grad.numpy(), expected, rtol=1e-5)


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("steps_beyond", [-2.3, 0.8, 2.3])
def test_where_the_zero_point_stands_still_gradients_are_those_of_the_definition(
    bits: int, steps_beyond: float
) -> None:
    steps, h, random = 2**bits - 1, 1e-7, np.random.default_rng(bits)
    at = (0.37, 0.37 * (steps_beyond if steps_beyond > 0 else steps_beyond - steps))
    values = np.append(random.normal(size=40) * steps * 0.37, 0.0)
    upstream = random.normal(size=values.shape)
    zero = 0 if steps_beyond > 0 else steps
    before = np.clip(values / at[0] + zero, 0, steps)

    def grid(scale: float, low: float) -> np.ndarray:
        """As above, but with the zero point within its bounds, where that of ``at`` is not."""
        offset = at[0] * np.rint(at[1] / at[0]) - at[1]
        z = np.clip(-(low + offset) / scale, 0, steps)
        return scale * (np.clip(values / scale + z, 0, steps) + np.rint(before) - before - z)  # type: ignore[no-any-return]

    x, scale, low = (torch.tensor(value, dtype=torch.float64, requires_grad=True) for value in (values, *at))
    out = fake_quantize_learned_affine(x, scale, low, (0, steps), 0.5)
    out.backward(torch.tensor(upstream))
    np.testing.assert_allclose(out.detach().numpy(), grid(*at), atol=1e-12)
    expected = [
        0.5 * (upstream * (grid(at[0] + s, at[1] + b) - grid(at[0] - s, at[1] - b))).sum() / (2 * h)
        for s, b in ((h, 0), (0, h))
    ]
    assert scale.grad is not None
    assert low.grad is not None
    assert x.grad is not None
    assert expected[1] == low.grad == 0
    np.testing.assert_allclose(scale.grad.numpy(), expected[0], rtol=1e-5)
    inside = (values / at[0] + zero >= 0) & (values / at[0] + zero <= steps)
    assert 0 < inside.sum() < inside.size
    np.testing.assert_array_equal(x.grad.numpy(), np.where(inside, upstream, 0))


def test_inputs_from_zero_on_leave_the_smallest_value_alone() -> None:
    # Half of them are 0, as after a ReLU: which stays 0 on every grid.
    random = torch.Generator().manual_seed(0)
    x, upstream = (torch.rand(100, generator=random) * 2 - 1).relu(), torch.randn(100, generator=random)
    change = torch.zeros(2, requires_grad=True)
    fake_quantize_input_learned(x, torch.tensor([0.0, 1.0]), change, learned(False, 4), 1).backward(upstream)
    assert change.grad is not None
    assert change.grad[1] == 0 != change.grad[0]


def test_a_smallest_value_of_zero_stands_against_a_long_pull_and_is_left_at_once() -> None:
    scheme, seen, random = learned(False, 4), torch.tensor([0.0, 1.0]), torch.Generator().manual_seed(0)
    change = torch.zeros(2, requires_grad=True)
    descent = torch.optim.Adam([change], lr=0.01)

    def train(x: Tensor, steps: int) -> float:
        """The smallest value on the grid that it ends with, of a scale that stays."""
        for _ in range(steps):
            descent.zero_grad()
            (fake_quantize_input_learned(x, seen, change, scheme, 1) - x).square().mean().backward()
            assert change.grad is not None
            change.grad[0] = 0
            descent.step()
        scale, zero = learned_qparams(seen, change, scheme)
        return float(-zero * scale)

    # What is clipped above would have the whole grid lie higher, where it would not hold 0.
    assert train(torch.rand(200, generator=random) * 3, 100) >= -1.5 / 15
    assert train(-torch.rand(200, generator=random), 120) < -0.5


@pytest.mark.parametrize("low", [-0.4, 0.0, 0.4, -2.0])
def test_gradients_of_parts_of_a_batch_add_up_wherever_the_grid_is(low: float) -> None:
    x, upstream = torch.randn(2, 60, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    def gradient(part: slice) -> Tensor:
        change = torch.tensor([0.0, low], dtype=torch.float64, requires_grad=True)
        seen = torch.tensor([0.0, 1.0], dtype=torch.float64)
        fake_quantize_input_learned(x[part], seen, change, learned(False, 4), 7).backward(upstream[part])
        assert change.grad is not None
        return change.grad

    whole = gradient(slice(None))
    assert whole.ne(0).tolist() == [True, low > -1]  # from -2 on, the grid of width 1 would not hold 0
    torch.testing.assert_close(gradient(slice(10)) + gradient(slice(10, None)), whole)


@pytest.mark.parametrize("bits", BITS)
def test_zero_stays_exactly_zero_wherever_training_moves_the_grid(bits: int) -> None:
    scheme, x = learned(False, bits), torch.tensor([-3.0, 0.0, 3.0])
    for seen in ([-1.0, 2.0], [0.5, 2.0], [-2.0, -1.0]):
        for change in torch.randn(20, 2):
            out = fake_quantize_input_learned(x, torch.tensor(seen), change, scheme, 3)
            scale, zero_point = learned_qparams(torch.tensor(seen), change, scheme)
            assert out[1] == 0
            assert out.isfinite().all()
            assert scale > 0
            assert zero_point in range(2**bits)
            peer = torch.fake_quantize_per_tensor_affine(x, scale, zero_point.int(), 0, 2**bits - 1)
            assert torch.equal(out, peer)


@pytest.mark.parametrize("symmetric", SYMMETRIC)
def test_a_descent_finds_a_better_grid_than_the_widest(symmetric: bool) -> None:
    scheme, x = learned(symmetric, bits=3), torch.cat([torch.randn(4000).clamp_min(-0.3), torch.tensor([30.0])])
    seen = torch.tensor([-0.3, 30.0])
    change = no_change(scheme, x.device).requires_grad_()
    descent, errors = torch.optim.Adam([change], lr=0.1), []
    for _ in range(200):
        error = (fake_quantize_input_learned(x, seen, change, scheme, 1) - x).square().mean()
        descent.zero_grad()
        error.backward()
        descent.step()
        errors.append(float(error.detach()))
    assert errors[-1] < 0.6 * errors[0]


@pytest.mark.parametrize("symmetric", SYMMETRIC)
@pytest.mark.parametrize("name", LAYERS)
def test_training_begins_from_the_bits_of_the_observed_grid(name: str, symmetric: bool) -> None:
    layer, x = made(name, learned(symmetric))
    other, _ = made(name, ActivationScheme(symmetric=symmetric), copy.deepcopy(_plain(layer)))
    layer.mode = other.mode = "fake"
    assert torch.equal(layer(x), other(x))
    low, high = float(x.min()), float(x.max())
    step = max(-low, high) / 127 if symmetric else (high - low) / 255
    scale, zero_point = layer.input_qparams()
    assert float(scale) == pytest.approx(step, rel=1e-6)
    assert zero_point == (0 if symmetric else round(-low / step))


def _plain(layer: QuantizedLayer) -> nn.Module:
    """A copy, plain again."""
    plain = copy.deepcopy(layer)
    restore(plain)
    return plain


@pytest.mark.parametrize("symmetric", SYMMETRIC)
@pytest.mark.parametrize("name", LAYERS)
def test_a_frozen_layer_gives_the_bits_of_the_trained_one(name: str, symmetric: bool) -> None:
    layer, x = made(name, learned(symmetric))
    layer.mode = "fake"
    observed = layer(x)
    layer.input_change.data.copy_(torch.tensor([0.013, 0.2][: layer.input_change.numel()]))
    before = layer(x)
    assert not torch.equal(before, observed)
    freeze([layer])
    assert torch.equal(layer(x), before)
    assert layer.input_scale is not None
    assert layer.input_zero_point is not None
    assert layer.input_scale.dtype is torch.float32
    assert layer.input_zero_point.dtype is torch.int32
    assert sorted(dict(layer.named_parameters())) == ["bias", "weight"]
    assert not any("range" in key or "change" in key for key in layer.state_dict())


@pytest.mark.parametrize("name", ["linear", "conv2d"])
def test_the_gradient_is_balanced_by_the_features_of_a_token_or_sample(name: str) -> None:
    # However many tokens or samples there are: parts of a batch add up to the whole.
    layer, x = made(name, learned(False))
    layer.mode = "fake"

    def gradient(rows: Tensor) -> Tensor:
        layer.input_change.grad = None
        layer(rows).sum().backward()
        assert layer.input_change.grad is not None
        return layer.input_change.grad.clone()

    torch.testing.assert_close(gradient(x[:1]) + gradient(x[1:]), gradient(x))
    # By hand: each channel's largest weight is 127, and the range of the input that was observed is that of x. The
    # map is linear: what reaches the rounded input depends on the rounded weights alone.
    weight, at = layer.weight.detach().double(), x.double().requires_grad_()
    step = weight.flatten(1).abs().amax(1).view(-1, *[1] * (weight.dim() - 1)) / 127
    rounded = step * (weight / step).round()
    (F.linear(at, rounded) if name == "linear" else F.conv2d(at, rounded, padding=1)).sum().backward()
    values, upstream = x.double().numpy(), at.grad
    assert upstream is not None
    scale = (values.max() - values.min()) / 255
    t = values / scale + np.rint(-values.min() / scale)
    slope = np.where(t > 255, 255, np.where(t < 0, 0, np.rint(t) - t))
    outside = (t > 255) | (t < 0)
    assert outside.any()
    features = {"linear": 8, "conv2d": 4 * 5 * 5}[name]
    expected = [float((s * upstream.numpy()).sum()) / np.sqrt(features * 255) for s in (slope, outside)]
    np.testing.assert_allclose(gradient(x).numpy(), expected, rtol=1e-3)


@pytest.mark.parametrize("mode", ["float", "fake"])
def test_a_change_has_a_gradient_before_it_is_used(mode: str) -> None:
    # DDP waits for one from every parameter; without a range there is nothing to change yet.
    for make, shape in LAYERS.values():
        plain, x = make(), torch.randn(shape)
        layer = quantize_layer(copy.deepcopy(plain), LayerScheme(weights=WeightScheme(), activations=learned(False)))
        layer.mode = mode  # type: ignore[assignment]
        layer.train()(x).sum().backward()
        assert layer.input_change.grad is not None
        assert layer.input_change.grad.eq(0).all()
        assert layer.input_change.dim() == 1, "what has one dimension does not decay"
        if mode == "float":
            assert torch.equal(layer(x), plain(x))


def test_half_precision_is_rounded_in_float32() -> None:
    layer, x = made("linear", learned(False))
    layer.mode = "fake"
    exact = layer(x)
    with torch.autocast("cpu", torch.bfloat16):
        out = layer(x)
    assert out.dtype is torch.bfloat16
    torch.testing.assert_close(out.float(), exact, rtol=0.02, atol=0.03)
    half = layer.bfloat16()(x.bfloat16())
    assert half.dtype is torch.bfloat16
    assert half.isfinite().all()


def test_the_range_that_is_logged_is_that_of_the_trained_grid() -> None:
    layer, _ = made("linear", learned(True))
    layer.mode = "fake"
    layer.input_change.data.fill_(0.01)
    scale = float(layer.input_range.abs().max()) / 127 + 0.01
    said = quantization_metrics({"a": layer}, each=True)
    assert said["qat/input_high/a"] == pytest.approx(127 * scale)
    assert said["qat/input_low/a"] == pytest.approx(-127 * scale)
    assert said["qat/input_range_max"] == pytest.approx(254 * scale)


def test_without_training_the_observed_grid_is_kept() -> None:
    x = torch.randn(16, 8)
    models = [nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3)) for _ in range(2)]
    models[1].load_state_dict(models[0].state_dict())
    for model, inputs in zip(models, (learned(False), ActivationScheme()), strict=True):
        quantize(model, [x], activations=inputs, include=["."])
    assert torch.equal(models[0](x), models[1](x))


@pytest.mark.parametrize("kind", ["dynamic", "none"])
def test_only_static_inputs_have_a_scale_to_learn(kind: str) -> None:
    with pytest.raises(UserError, match=r"learned = True: only static inputs.*kind: static"):
        ActivationScheme(kind=kind, learned=True)  # type: ignore[arg-type]
