"""Quantized convolutions as integers: what each computes, and what a runtime makes of several of them."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import onnx
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from distill.compression.quantization.layers import QuantizedLayer, quantize_layer
from distill.compression.quantization.lifecycle import freeze
from distill.compression.quantization.ptq import quantize
from distill.compression.quantization.scheme import ActivationScheme, LayerScheme, WeightScheme
from distill.core.signals import Batch
from distill.export.onnx.convert import with_integers
from distill.export.onnx.graph import to_onnx
from distill.export.onnx.runtime import integer_matmuls, logits, session
from distill.export.onnx.write import MODEL
from distill.export.targets import TARGETS, write
from distill.tasks import Plain

CHANNELS, OUT, SIDE = 4, 6, 7
INT8, ONE_SCALE = WeightScheme(), WeightScheme(granularity="tensor", reduced_range=True)
FULL, DYNAMIC = ActivationScheme(), ActivationScheme(kind="dynamic")
KINDS: dict[str, tuple[dict[str, object], WeightScheme, ActivationScheme | None]] = {
    "plain": ({"padding": 1}, INT8, FULL),
    "one_scale": ({"padding": "same", "dilation": 2}, ONE_SCALE, FULL),
    "signed_inputs": ({"stride": 2, "bias": False}, INT8, ActivationScheme(symmetric=True)),
    "narrow_inputs": ({"groups": 2}, WeightScheme(bits=4), ActivationScheme(bits=4)),
    "mirrored": ({"padding": 1, "padding_mode": "reflect"}, INT8, FULL),
    "great_bias": ({}, INT8, FULL),
    "asymmetric": ({"padding": 1}, WeightScheme(symmetric=False), FULL),
    "dynamic": ({"padding": 1}, INT8, DYNAMIC),
    "groups": ({}, WeightScheme(bits=4, granularity="group", group_size=9, symmetric=False), None),
}


def quantized(layer: nn.Module, scheme: LayerScheme, low: float, high: float) -> QuantizedLayer:
    """Frozen; a static input of the range."""
    made = quantize_layer(layer, scheme)
    if made.static:
        made.input_range.copy_(torch.tensor([low, high]))
    freeze([made])
    return made


@pytest.mark.parametrize("shrunk", [1.0, 1e-3, 1e-6, 1e-9, 0.0])
@pytest.mark.parametrize("unsigned", [False, True])
def test_a_vanished_channel_keeps_its_bias_and_an_integer_product(
    tmp_path: Path, shrunk: float, unsigned: bool
) -> None:
    torch.manual_seed(0)
    first, second = nn.Conv2d(CHANNELS, 8, 3, padding=1), nn.Conv2d(8, OUT, 3, padding=1)
    norm = nn.BatchNorm2d(8)
    with torch.no_grad():
        first.weight[0] *= shrunk
        first.bias[0] = 1.0  # type: ignore[index]
        norm.weight[1], norm.bias[1] = shrunk, 0.5  # type: ignore[index]
        norm.running_var.uniform_(0.5, 2)  # type: ignore[union-attr]
    scheme = LayerScheme(weights=INT8, activations=FULL)
    net = nn.Sequential(
        quantized(first, scheme, -3.0, 3.0),
        norm,
        nn.ReLU(),
        quantized(second, scheme, 0.0, 3.0),
        nn.Flatten(),
        nn.Linear(OUT * SIDE**2, 3),
    ).eval()
    x = torch.randn(16, CHANNELS, SIDE, SIDE)
    to_onnx(with_integers(net, unsigned=unsigned), tmp_path / MODEL, {"input": x})
    assert integer_matmuls(tmp_path / MODEL) == {"QLinearConv": 1}  # the first; no grid follows the second
    with torch.no_grad():
        expected = net(x)
    found = logits(session(tmp_path / MODEL), {"input": x})
    # A value halfway between two steps of the second's grid may go to either: seen are 2e-3, also where nothing shrank.
    assert float((found - expected).norm() / expected.norm()) < 5e-3


class Layers(nn.Module):
    """Convolutions side by side over the same image."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleDict()
        for name, (arguments, weights, activations) in KINDS.items():
            conv = nn.Conv2d(CHANNELS, OUT, 3, **arguments)  # type: ignore[arg-type]
            with torch.no_grad():
                conv.weight[0] = 0.0  # a channel that was pruned away
                if name == "great_bias":
                    conv.weight[1] *= 1e-9
            self.layers[name] = quantized(conv, LayerScheme(weights=weights, activations=activations), -1.5, 2.0)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([layer(x).flatten(1) for layer in self.layers.values()], dim=1)


def oracle(layer: QuantizedLayer, arguments: dict[str, object], x: Tensor) -> Tensor:
    """The layer in float64, from its integers and scales."""
    scale, x = layer.weight_scale.double(), x.double()
    zero = torch.zeros_like(scale) if layer.weight_zero_point is None else layer.weight_zero_point.double()
    rows = layer.integers().double().flatten(1)
    parts = rows.view(OUT, scale.shape[1] if scale.dim() > 1 else 1, -1)
    scale, zero = (v.view(*v.shape, *[1] * (3 - v.dim())) if v.dim() else v for v in (scale, zero))
    weight = (scale * (parts - zero)).view(layer.weight.shape)
    scheme = layer.scheme.activations
    if scheme is not None:
        low, high = scheme.bounds
        if layer.input_scale is not None:
            s, z = layer.input_scale.double(), layer.input_zero_point.double()  # type: ignore[union-attr]
        else:
            a, b = (
                end.clamp(*limit)[:, None, None, None]
                for end, limit in ((x.flatten(1).min(1).values, (None, 0.0)), (x.flatten(1).max(1).values, (0.0, None)))
            )
            s = (b - a) / (high - low)
            z = low - (a / s).round()
        x = s * (((x / s).round() + z).clamp(low, high) - z)
    bias = None if layer.bias is None else layer.bias.detach().double()  # type: ignore[union-attr, operator]
    settings = {key: value for key, value in arguments.items() if key in ("stride", "padding", "dilation", "groups")}
    if "padding_mode" in arguments:
        x, settings = F.pad(x, (1, 1, 1, 1), mode="reflect"), {}
    return F.conv2d(x, weight, bias, **settings)  # type: ignore[arg-type]


def half_a_step(layer: QuantizedLayer) -> Tensor:
    """By which a channel's bias may differ that is rounded to the grid of the product of integers.

    A channel that was pruned away keeps its bias, and so does a layer whose weights are multiplied as floats.
    """
    if layer.input_scale is None or layer.weight_zero_point is not None:
        return torch.zeros(len(layer.weight))
    pruned = layer.weight.flatten(1).eq(0).all(1)
    return (layer.input_scale * layer.weight_scale).expand(len(pruned)).masked_fill(pruned, 0.0) / 2


@pytest.fixture(scope="module")
def layers() -> Layers:
    return Layers().eval()


@pytest.fixture(scope="module", params=[False, pytest.param(True, marks=pytest.mark.slow)], ids=["int8", "uint8"])
def path(request: pytest.FixtureRequest, layers: Layers, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("onnx") / MODEL
    to_onnx(with_integers(layers, unsigned=request.param), path, {"x": torch.zeros(1, CHANNELS, SIDE, SIDE)})
    return path


def test_every_convolution_agrees_with_its_integers_in_float64(layers: Layers, path: Path) -> None:
    x = torch.randn(20, CHANNELS, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    found, start = logits(session(path), {"x": x}).double(), 0
    for name, layer in layers.layers.items():
        assert isinstance(layer, QuantizedLayer)
        expected = oracle(layer, KINDS[name][0], x)
        size = expected[0].numel()
        error = (found[:, start : start + size].view(expected.shape) - expected).abs()
        error -= half_a_step(layer).double()[:, None, None]
        start += size
        # Half a step of the input's grid away from an integer, float32 may round the other way: one image at most.
        assert (error.flatten(1).amax(1) > 1e-5 * expected.abs().max()).sum() <= 1, name
    assert start == found.shape[1]


def test_their_weights_are_integers_in_the_file(path: Path, request: pytest.FixtureRequest) -> None:
    found = {i.name.split(".")[-2]: i for i in onnx.load(path).graph.initializer if i.name.endswith(".integers")}
    unsigned = onnx.TensorProto.UINT8 if "uint8" in request.node.name else onnx.TensorProto.INT8
    for name in ("plain", "one_scale", "signed_inputs", "narrow_inputs", "mirrored", "great_bias"):
        assert found[name].data_type == unsigned
        assert list(found[name].dims) == [OUT, CHANNELS // (2 if name == "narrow_inputs" else 1), 3, 3]


class Pipeline(nn.Module):
    """Four convolutions, three of them with a batch norm, and a head."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        widths = (1, 6, 8, 8, 10)
        self.convs = nn.ModuleList(
            nn.Conv2d(a, b, 3, padding=1, bias=index != 2) for index, (a, b) in enumerate(pairwise(widths))
        )
        self.norms = nn.ModuleList([nn.BatchNorm2d(6), nn.BatchNorm2d(8), nn.BatchNorm2d(8), nn.Identity()])
        self.head = nn.Linear(10, 4)

    def forward(self, input: Tensor) -> Tensor:
        x = input
        for index, (conv, norm) in enumerate(zip(self.convs, self.norms, strict=True)):
            x = norm(conv(x)).relu()
            x = F.max_pool2d(x, 2) if index == 1 else x
        return self.head(x.mean((2, 3)))


@pytest.fixture(scope="module")
def pipeline() -> Pipeline:
    """Frozen, with norms that turn some channels round, and channels without a weight."""
    net = Pipeline()
    with torch.no_grad():
        for norm in net.norms[:3]:
            assert isinstance(norm, nn.BatchNorm2d)
            norm.weight.normal_()
            norm.bias.normal_()
            norm.running_mean.normal_()  # type: ignore[union-attr]
            norm.running_var.uniform_(0.5, 2.0)  # type: ignore[union-attr]
            norm.weight[1] = 0.0
        for conv in net.convs:
            conv.weight[0] = 0.0  # type: ignore[index]
        net.head.weight.mul_(20.0)
    for conv in net.convs:
        quantized(conv, LayerScheme(weights=INT8, activations=FULL), 0.0, 3.0)
    return net.eval()


def images() -> list[Batch]:
    x = torch.rand(400, 1, 8, 8, generator=torch.Generator().manual_seed(5)) * 3
    return [Batch({"input": part}, labels=torch.arange(100) % 4) for part in x.split(100)]


@pytest.mark.parametrize("isa", ["avx2", "vnni"])
def test_convolutions_that_follow_each_other_are_multiplied_as_integers(
    pipeline: Pipeline, tmp_path: Path, isa: str
) -> None:
    report = write(TARGETS["onnx-int8"](isa), pipeline, tmp_path, task=Plain(), batches=images)
    # The last one's output is averaged, and rounded to no grid.
    assert report["integer_products"] == 3
    assert report["float_products"] == {"convs.3": "its output is not rounded"}
    assert report["integer_matmuls"] == integer_matmuls(tmp_path / MODEL) == {"QLinearConv": 3}
    assert report["weights"] == {"avx2": "uint8", "vnni": "int8"}[isa]
    assert report["verified"]["agreement"] >= 0.995
    assert report["verified"]["predictions"] == 400
    assert abs(report["verified"]["trained"] - report["verified"]["exported"]) <= 0.003
    assert "BatchNormalization" not in {node.op_type for node in onnx.load(tmp_path / MODEL).graph.node}


class Fork(nn.Module):
    """A convolution whose output a batch norm reads, and the sum of both only if told."""

    def __init__(self, both: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.both = both
        conv, self.norm = nn.Conv1d(2, 5, 3), nn.BatchNorm1d(5)
        with torch.no_grad():
            conv.weight[0] = 0.0  # pruned away
            self.norm.weight.copy_(torch.tensor([1.0, -2.0, 0.5, 0.0, -0.3]))
            self.norm.bias.normal_()
            self.norm.running_mean.normal_()  # type: ignore[union-attr]
            self.norm.running_var.uniform_(0.5, 2.0)  # type: ignore[union-attr]
        self.conv = quantized(conv, LayerScheme(weights=INT8, activations=FULL), -1.0, 1.0)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        return (y + self.norm(y) if self.both else self.norm(y)).flatten(1)


@pytest.mark.parametrize("both", [False, True], ids=["alone", "read_twice"])
def test_a_norm_is_folded_where_it_alone_reads_the_convolution(tmp_path: Path, both: bool) -> None:
    fork, x = Fork(both).eval(), torch.rand(5, 2, 6, generator=torch.Generator().manual_seed(0))
    to_onnx(with_integers(fork, unsigned=True), tmp_path / MODEL, {"x": x})
    assert ("BatchNormalization" in {node.op_type for node in onnx.load(tmp_path / MODEL).graph.node}) == both
    with torch.no_grad():
        error = (logits(session(tmp_path / MODEL), {"x": x}) - fork(x)).abs().view(5, 5, 4).amax((0, 2))
        norm = fork.norm
        factor = norm.weight / (norm.running_var + norm.eps).sqrt()  # type: ignore[operator]
        # Half a step of the bias goes through the norm; folded, as much again is lost where it is rounded anew.
        bound = half_a_step(fork.conv) * ((1 + factor).abs() if both else 2 * factor.abs())
    assert (error <= bound + 2e-6).all()
    assert (error > 2e-6).any()


class Modulated(nn.Module):
    """A convolution and a batch norm whose factors are computed from the input."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = quantized(nn.Conv1d(5, 5, 3), LayerScheme(weights=INT8, activations=FULL), -1.0, 1.0)
        self.norm = nn.BatchNorm1d(5)

    def forward(self, x: Tensor) -> Tensor:
        mean, var = self.norm.running_mean, self.norm.running_var
        return F.batch_norm(self.conv(x), mean, var, x.mean((0, 2)), self.norm.bias).flatten(1)


def test_a_norm_whose_factors_are_computed_stays(tmp_path: Path) -> None:
    net, x = Modulated().eval(), torch.rand(3, 5, 6, generator=torch.Generator().manual_seed(0))
    to_onnx(with_integers(net, unsigned=True), tmp_path / MODEL, {"x": x})
    assert "BatchNormalization" in {node.op_type for node in onnx.load(tmp_path / MODEL).graph.node}
    with torch.no_grad():
        error = (logits(session(tmp_path / MODEL), {"x": x}) - net(x)).abs().view(3, 5, 4).amax((0, 2))
        assert (error <= half_a_step(net.conv) * x.mean((0, 2)) + 2e-6).all()


class Kinds(nn.Module):
    """Convolutions of all but two dimensions, and transposed ones, between a first layer and a head."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.volume = nn.Conv1d(2, 8, 3, padding=1), nn.Conv3d(2, 2, 2)
        self.wave, self.up = nn.Conv1d(8, 8, 3, padding=1), nn.ConvTranspose1d(8, 8, 4, 2, 1, groups=2)
        self.spread, self.head = nn.ConvTranspose2d(2, 4, 3, 2, output_padding=1), nn.Linear(4, 3)

    def forward(self, input: Tensor) -> Tensor:
        x = self.up(self.wave(self.first(input).relu()).relu()).relu()
        x = self.volume(x.unflatten(1, (2, 4)).unflatten(3, (4, 4))).flatten(3)
        return self.head(self.spread(x).mean((2, 3)))


@pytest.mark.parametrize(
    "inputs", [None, FULL, pytest.param(DYNAMIC, marks=pytest.mark.slow)], ids=["weights", "static", "dynamic"]
)
def test_convolutions_of_all_kinds_compute_in_a_runtime_what_they_compute_here(
    inputs: ActivationScheme | None, tmp_path: Path
) -> None:
    model, x = Kinds(), torch.randn(4, 2, 8, generator=torch.Generator().manual_seed(1))
    (step,) = quantize(model, [x], activations=inputs)
    assert list(step["modules"]) == ["volume", "wave", "up", "spread"]
    to_onnx(with_integers(model, unsigned=False), tmp_path / MODEL, {"input": x})
    found = logits(session(tmp_path / MODEL), {"input": x})
    torch.testing.assert_close(found, model(x).detach(), rtol=1e-4, atol=1e-5)


class PadsBySize(nn.Conv2d):
    """As many zeros as TensorFlow puts around an image of this size."""

    def forward(self, input: Tensor) -> Tensor:
        [stride, _], [kernel, _] = self.stride, self.kernel_size
        down, right = (max((-(-size // stride) - 1) * stride + kernel - size, 0) for size in input.shape[-2:])
        padded = F.pad(input, [right // 2, right - right // 2, down // 2, down - down // 2])
        return F.conv2d(padded, self.weight, self.bias, self.stride)


@pytest.mark.slow
def test_where_the_size_says_how_much_is_padded_it_is_fixed_and_integers_are_multiplied(tmp_path: Path) -> None:
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), PadsBySize(8, 8, 3, stride=2), nn.ReLU(), nn.Conv2d(8, 8, 1)]
    net = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)).eval()
    quantize(net, [batch.inputs["input"] for batch in images()], activations=FULL)
    report = write(TARGETS["onnx-int8"]("avx2"), net, tmp_path, task=Plain(), batches=images)
    assert report["inputs"] == {"input": ["batch", 1, 8, 8]}
    assert report["integer_matmuls"] == {"QLinearConv": 2}
    assert report["float_products"] == {}
