"""The promises of static inputs whose grid is trained."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from distill.errors import UserError
from distill.quantize.figures import figures
from distill.quantize.inputs import fake_quantize_input_learned, learned_qparams, no_change
from distill.quantize.layers import QuantizedLayer, quantize_layer
from distill.quantize.lifecycle import follow, freeze, restore
from distill.quantize.observers import input_qparams
from distill.quantize.ptq import quantize
from distill.quantize.scheme import BITS, ActivationScheme, LayerScheme, WeightScheme

LAYERS = {
    "linear": (lambda: nn.Linear(8, 6), torch.randn(3, 5, 8)),
    "transposed": (lambda: Conv1D(6, 8), torch.randn(3, 5, 8)),
    "conv1d": (lambda: nn.Conv1d(4, 6, 3, padding=1), torch.randn(3, 4, 7)),
    "conv2d": (lambda: nn.Conv2d(4, 6, 2, padding=1), torch.randn(3, 4, 5, 5)),
}
SYMMETRIC = [True, False]


def learned(symmetric: bool, bits: int = 8) -> ActivationScheme:
    return ActivationScheme(bits=bits, symmetric=symmetric, learned=True)


def made(name: str, inputs: ActivationScheme, plain: nn.Module | None = None) -> tuple[QuantizedLayer, Tensor]:
    """A layer that knows the range of its input, and that input."""
    torch.manual_seed(0)
    make, x = LAYERS[name]
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


@pytest.mark.parametrize("bits", BITS)
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
    assert all(
        map(torch.equal, layer.input_qparams(), input_qparams(layer.input_range, ActivationScheme(symmetric=symmetric)))
    )


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
    inputs: list[Tensor] = []
    hook = layer.register_forward_pre_hook(lambda _, args: inputs.append(args[0]))
    whole = x.clone().requires_grad_()
    layer(whole).sum().backward()
    hook.remove()
    assert whole.grad is not None
    # What reaches the rounded input, from the plain layer of rounded weights.
    rounded = x.clone().requires_grad_()
    plain = _plain(layer)
    plain.weight.data = layer.on_grid(layer.grid()).detach()  # type: ignore[union-attr]
    plain(rounded).sum().backward()
    upstream = rounded.grad
    scale, zero = (float(value) for value in layer.input_qparams())
    t = x.double() / scale + zero
    slope = torch.where(t >= 255, 255.0, torch.where(t <= 0, 0.0, t.round() - t))
    features = {"linear": 8, "conv2d": 4 * 5 * 5}[name]
    assert upstream is not None
    expected = (slope * upstream).sum() / np.sqrt(features * 255)
    torch.testing.assert_close(gradient(x)[0].double(), expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("mode", ["float", "fake"])
def test_a_change_has_a_gradient_before_it_is_used(mode: str) -> None:
    # DDP waits for one from every parameter; without a range there is nothing to change yet.
    for make, x in LAYERS.values():
        plain = make()
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
    said = figures({"a": layer}, each=True)
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
