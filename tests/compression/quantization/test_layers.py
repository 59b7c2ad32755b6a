"""The promises of layers that compute with quantized weights and inputs."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from distill.compression.quantization.layers import QUANTIZED, QuantizedLayer, quantize_layer
from distill.compression.quantization.lifecycle import as_float, find_ranged, follow, freeze, restore
from distill.compression.quantization.scheme import ActivationScheme, LayerScheme, WeightScheme

INT8, STATIC, DYNAMIC = WeightScheme(), ActivationScheme(), ActivationScheme(kind="dynamic")
INT4 = WeightScheme(bits=4, granularity="group", group_size=4)


def transposed() -> Conv1D:
    return Conv1D(6, 8)


torch.manual_seed(0)
MAKERS: dict[str, tuple[Any, Tensor]] = {
    "linear": (lambda: nn.Linear(8, 6), torch.randn(3, 5, 8)),
    "transposed": (transposed, torch.randn(3, 5, 8)),
    "conv1d": (lambda: nn.Conv1d(4, 6, 3, padding=1), torch.randn(3, 4, 7)),
    "conv2d": (lambda: nn.Conv2d(4, 6, 2, groups=2, padding=1), torch.randn(3, 4, 5, 5)),
    "conv3d": (lambda: nn.Conv3d(4, 6, 2, padding=1), torch.randn(2, 4, 3, 4, 3)),
    "up1d": (lambda: nn.ConvTranspose1d(4, 6, 4, 2, 1, groups=2), torch.randn(3, 4, 7)),
    "up2d": (lambda: nn.ConvTranspose2d(4, 6, 3, 2, output_padding=1), torch.randn(3, 4, 5, 5)),
    "up3d": (lambda: nn.ConvTranspose3d(4, 6, 2), torch.randn(2, 4, 3, 3, 3)),
    "embedding": (lambda: nn.Embedding(9, 8, padding_idx=0), torch.tensor([[1, 0, 8], [1, 3, 4]])),
}


def made(name: str, scheme: LayerScheme | None = None) -> tuple[nn.Module, QuantizedLayer, Tensor]:
    """A plain module and a quantized copy of it, ready to round, and an input."""
    torch.manual_seed(0)
    make, x = MAKERS[name]
    plain = make()
    inputs = None if name == "embedding" else STATIC
    layer = quantize_layer(copy.deepcopy(plain), scheme or LayerScheme(weights=INT8, activations=inputs))
    layer.observing = layer.static
    layer.train()(x)
    follow([layer])
    layer.observing = False
    return plain, layer.eval(), x


@pytest.mark.parametrize("name", MAKERS)
def test_until_it_rounds_a_layer_computes_what_the_plain_one_does(name: str) -> None:
    plain, layer, x = made(name)
    assert torch.equal(layer(x), plain(x))
    assert isinstance(layer, type(plain))


def test_parameters_ties_and_hooks_survive() -> None:
    module = nn.Linear(4, 4)
    other = nn.Linear(4, 4)
    other.weight = module.weight
    weight, calls = module.weight, []
    module.register_forward_hook(lambda *_: calls.append(1))
    layer = quantize_layer(module, LayerScheme(weights=INT8, activations=STATIC))
    assert layer is module
    layer(torch.randn(2, 4))
    assert calls == [1]
    assert module.weight is weight is other.weight
    assert list(dict(module.named_parameters())) == ["weight", "bias"]
    restore(layer)
    assert type(module) is nn.Linear
    assert sorted(module.state_dict()) == ["bias", "weight"]


def rounded(x: np.ndarray, scale: Any, zero: Any, bounds: tuple[int, int]) -> np.ndarray:
    return scale * (np.clip(np.rint(x / scale) + zero, *bounds) - zero)  # type: ignore[no-any-return]


def test_a_linear_layer_multiplies_integers() -> None:
    # In integers and float64: y = s_x s_w sum (q_x - z_x) q_w + b.
    _, layer, x = made("linear")
    layer.mode = "fake"
    weight, bias = layer.weight.detach().double().numpy(), layer.bias.detach().double().numpy()  # type: ignore[union-attr]
    scale_w = np.abs(weight).max(1) / 127
    q_w = np.rint(weight / scale_w[:, None])
    values = x.double().numpy()
    low, high = values.min(), values.max()
    scale_x = (high - low) / 255
    zero = np.rint(-low / scale_x)
    q_x = np.clip(np.rint(values / scale_x) + zero, 0, 255)
    expected = scale_x * scale_w * ((q_x - zero) @ q_w.T) + bias
    np.testing.assert_allclose(layer(x).detach().numpy(), expected, rtol=1e-4, atol=1e-5)


def test_gpt2s_transposed_weights_are_quantized_by_output_like_any_linear() -> None:
    conv, x = transposed(), torch.randn(2, 3, 8)
    linear = nn.Linear(8, 6)
    linear.load_state_dict({"weight": conv.weight.detach().t(), "bias": conv.bias.detach()})
    for weights in (INT8, INT4, WeightScheme(granularity="tensor"), WeightScheme(bits=4, symmetric=False)):
        scheme = LayerScheme(weights=weights, activations=DYNAMIC)
        a, b = quantize_layer(copy.deepcopy(conv), scheme), quantize_layer(copy.deepcopy(linear), scheme)
        a.mode = b.mode = "fake"
        torch.testing.assert_close(a(x), b(x))
        freeze([a, b])
        assert torch.equal(a.weight_scale, b.weight_scale)
        assert torch.equal(a.integers(), b.integers().t())
        assert a.weight.is_contiguous()


@pytest.mark.parametrize("name", ["conv1d", "conv2d", "conv3d", "up1d", "up2d", "up3d"])
def test_a_convolution_rounds_weights_by_channel_and_pads_with_exact_zeros(name: str) -> None:
    plain, layer, x = made(name)
    layer.mode = "fake"
    weight = plain.weight.detach().double()  # type: ignore[operator, union-attr]
    if name.startswith("up"):  # [in, out / groups, ...]: output o of group g has the weights of the group's inputs
        groups, into, out = int(plain.groups), *weight.shape[:2]  # type: ignore[arg-type]
        scale = torch.empty(into, out, *[1] * (weight.dim() - 2), dtype=torch.float64)
        for g in range(groups):
            part = slice(g * into // groups, (g + 1) * into // groups)
            for o in range(out):
                scale[part, o] = weight[part, o].abs().max() / 127
    else:
        scale = weight.abs().flatten(1).amax(1).view(-1, *[1] * (weight.dim() - 1)) / 127
    low, high = float(x.min()), float(x.max())
    step = (high - low) / 255
    inputs = rounded(x.double().numpy(), step, np.rint(-low / step), (0, 255))
    oracle = copy.deepcopy(plain).double()
    oracle.weight.data = (weight / scale).round() * scale  # type: ignore[union-attr, operator]
    torch.testing.assert_close(layer(x).double(), oracle(torch.tensor(inputs)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "weights", [INT8, INT4, WeightScheme(granularity="tensor", bits=4), WeightScheme(symmetric=False)], ids=str
)
def test_rounding_only_the_rows_looked_up_gives_the_rows_of_the_rounded_table(weights: WeightScheme) -> None:
    _, layer, x = made("embedding", LayerScheme(weights=weights))
    layer.mode = "fake"
    rows = layer(x)
    whole = layer.on_grid(layer.grid())
    assert torch.equal(rows, whole[x])
    rows.sum().backward()
    assert layer.weight.grad is not None
    assert layer.weight.grad[0].eq(0).all(), "the padding row is not trained"
    assert layer.weight.grad[1].eq(2).all()


@pytest.mark.parametrize("learned", [False, True])
@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("inputs", [None, STATIC, DYNAMIC], ids=["weights", "static", "dynamic"])
def test_a_frozen_layer_gives_the_bits_of_the_fake_quantized_one(
    name: str, learned: bool, inputs: ActivationScheme | None
) -> None:
    weights = WeightScheme(bits=4, learned=learned)
    scheme = LayerScheme(weights=weights, activations=None if name == "embedding" else inputs)
    _, layer, x = made(name, scheme)
    layer.mode = "fake"
    before = layer(x)
    freeze([layer])
    assert layer.mode == "frozen"
    assert torch.equal(layer(x), before)
    q = layer.integers()
    assert q.dtype is torch.int8
    assert q.abs().max() <= 7
    assert torch.equal(layer.as_rows(q).float() * layer.weight_scale[:, None], layer.rows)
    assert not any("range" in key for key in layer.state_dict()), "observers are dropped"


@pytest.mark.parametrize("symmetric", [True, False])
def test_a_weight_shared_by_two_layers_is_laid_on_its_grid_once(symmetric: bool) -> None:
    # Of one side only: found anew from weights that lie on an asymmetric grid, another grid would come out.
    a, b = nn.Linear(8, 5), nn.Linear(8, 5)
    b.weight = a.weight
    with torch.no_grad():
        a.weight.copy_(torch.linspace(-0.37, 1.0, 40).view(5, 8)[:, torch.randperm(8)])
    layers = [quantize_layer(m, LayerScheme(weights=WeightScheme(bits=3, symmetric=symmetric))) for m in (a, b)]
    for layer in layers:
        layer.mode = "fake"
    x = torch.randn(4, 8)
    before = a(x), b(x)
    freeze(layers)
    assert torch.equal(a(x), before[0])
    assert torch.equal(b(x), before[1])


def test_dynamic_inputs_do_not_depend_on_the_rest_of_the_batch() -> None:
    for name in ("linear", "conv2d"):
        _, layer, x = made(name, LayerScheme(weights=INT8, activations=DYNAMIC))
        layer.mode = "fake"
        torch.testing.assert_close(layer(x)[:1], layer(x[:1]))
        louder = torch.cat([x[:1], 100 * x[1:]])
        torch.testing.assert_close(layer(louder)[:1], layer(x)[:1])


def test_observers_move_in_training_only() -> None:
    # Trap 27.
    layer = quantize_layer(nn.Linear(4, 4), LayerScheme(weights=INT8, activations=STATIC))
    layer.observing = True
    layer.eval()(torch.randn(2, 4))
    assert layer.seen is None
    layer.train()(torch.tensor([[-1.0, 0.0, 0.0, 2.0]]))
    layer(torch.tensor([[-0.5, 0.0, 0.0, 3.0]]))
    assert layer.seen is not None
    assert layer.seen.tolist() == [-1.0, 3.0]
    follow([layer])
    layer.observing = False
    layer(torch.full((1, 4), 9.0))
    follow([layer])
    assert layer.input_range.tolist() == [-1.0, 3.0]
    assert "input_range" in layer.state_dict()


def test_a_static_input_without_a_range_stays_as_it_is() -> None:
    layer = quantize_layer(nn.Linear(4, 4), LayerScheme(weights=INT8, activations=STATIC))
    layer.mode = "fake"
    x = torch.tensor([[1.0, -1.0, 1.0, 1.0]])
    assert layer(x).isfinite().all()
    layer.load_state_dict(layer.state_dict() | {"input_range": torch.tensor([-1.0, 1.0])})
    find_ranged([layer])
    assert layer.ranged
    torch.testing.assert_close(layer(10 * x), layer(100 * x), msg="beyond the range inputs are clipped")


def test_as_float_is_for_a_while_and_spares_frozen_layers() -> None:
    plain, layer, x = made("linear")
    layer.mode = "fake"
    other = quantize_layer(nn.Linear(8, 6), LayerScheme(weights=INT8))
    freeze([other])
    with as_float(nn.ModuleList([layer, other])):
        assert torch.equal(layer(x), plain(x))
        assert other.mode == "frozen"
    assert layer.mode == "fake"
    assert not torch.equal(layer(x), plain(x))


def test_autocast_rounds_in_float32_and_multiplies_in_bfloat16() -> None:
    plain, layer, x = made("linear")
    layer.mode = "fake"
    exact = layer(x)
    with torch.autocast("cpu", torch.bfloat16):
        out = layer(x)
        chained = layer(torch.cat([out, out], -1)[..., :8])
    assert out.dtype is chained.dtype is torch.bfloat16
    torch.testing.assert_close(out.float(), exact, rtol=0.02, atol=0.03)
    half = quantize_layer(copy.deepcopy(plain).bfloat16(), LayerScheme(weights=INT8, activations=DYNAMIC))
    half.mode = "fake"
    assert half(x.bfloat16()).dtype is torch.bfloat16


def test_a_trained_scale_has_a_gradient_before_it_is_used() -> None:
    # DDP waits for one from every parameter.
    for name in ("linear", "embedding", "transposed", "conv2d"):
        plain, layer, x = made(name, LayerScheme(weights=WeightScheme(bits=4, learned=True)))
        out = layer.train()(x)
        assert torch.equal(out, plain(x))
        out.sum().backward()
        assert layer.weight_scale.grad is not None
        assert layer.weight_scale.grad.eq(0).all()
        plain(x).sum().backward()
        torch.testing.assert_close(layer.weight.grad, plain.weight.grad)  # type: ignore[union-attr]
        layer.mode = "fake"
        layer(x).sum().backward()
        assert layer.weight_scale.grad.ne(0).any()


def test_trained_scales_have_one_dimension_so_that_they_do_not_decay() -> None:
    scheme = WeightScheme(bits=4, granularity="group", group_size=4, learned=True)
    layer = quantize_layer(nn.Linear(8, 6), LayerScheme(weights=scheme))
    assert layer.weight_scale.shape == (12,)
    layer.mode = "fake"
    before = layer(torch.eye(8))
    freeze([layer])
    assert layer.weight_scale.shape == (6, 2)
    assert torch.equal(layer(torch.eye(8)), before)


def test_only_exact_classes_are_known() -> None:
    convolutions = {nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d}
    assert set(QUANTIZED) == {nn.Linear, Conv1D, nn.Embedding, *convolutions}
    attention = nn.MultiheadAttention(8, 2)
    assert type(attention.out_proj) not in QUANTIZED, "its forward is never called"


def test_a_frozen_layer_is_exported_with_one_operator_for_its_input() -> None:
    _, layer, x = made("linear")
    layer.mode = "fake"
    freeze([layer])
    program = torch.export.export(layer, (x,))
    operators = [str(node.target) for node in program.graph.nodes if node.op == "call_function"]
    assert any("fake_quantize_per_tensor_affine" in name for name in operators)
    torch.testing.assert_close(program.module()(x), layer(x))
