"""Each kind of integer layer computes what its integers say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from distill.compression.quantization.layers import QuantizedLayer, quantize_layer
from distill.compression.quantization.lifecycle import freeze
from distill.compression.quantization.scheme import ActivationScheme, LayerScheme, WeightScheme
from distill.export.onnx.convert import frozen_layers, largest_integer, with_integers, without_quantization
from distill.export.onnx.graph import to_onnx
from distill.export.onnx.runtime import integer_matmuls, logits, session

WIDTH, OUT = 48, 10
TOKENS = 200
"""More than the exporter folds into a constant of another shape."""
FULL = ActivationScheme()
SCHEMES: dict[str, tuple[type[nn.Module], WeightScheme, ActivationScheme | None]] = {
    "static": (nn.Linear, WeightScheme(), FULL),
    "static_asymmetric": (nn.Linear, WeightScheme(symmetric=False), FULL),
    "static_one_scale": (nn.Linear, WeightScheme(granularity="tensor", reduced_range=True), FULL),
    "static_signed_inputs": (nn.Linear, WeightScheme(bits=4), ActivationScheme(symmetric=True)),
    "static_narrow_inputs": (nn.Linear, WeightScheme(), ActivationScheme(bits=4)),
    "static_transposed": (Conv1D, WeightScheme(), FULL),
    "dynamic": (nn.Linear, WeightScheme(), ActivationScheme(kind="dynamic")),
    "dynamic_asymmetric": (nn.Linear, WeightScheme(symmetric=False), ActivationScheme(kind="dynamic", symmetric=True)),
    "groups": (nn.Linear, WeightScheme(bits=4, granularity="group", group_size=8), None),
    "groups_asymmetric": (nn.Linear, WeightScheme(bits=3, granularity="group", group_size=8, symmetric=False), FULL),
    "nibbles": (nn.Linear, WeightScheme(bits=4, granularity="group", group_size=16), None),
    "nibbles_asymmetric": (nn.Linear, WeightScheme(bits=4, granularity="group", group_size=16, symmetric=False), FULL),
    "nibbles_of_a_channel": (nn.Linear, WeightScheme(bits=4), None),
    "groups_dynamic": (
        nn.Linear,
        WeightScheme(granularity="group", group_size=12),
        ActivationScheme(kind="dynamic", bits=6),
    ),
    "of_16_bits": (nn.Linear, WeightScheme(bits=16), ActivationScheme(bits=16)),
    "of_5_bits_and_16": (nn.Linear, WeightScheme(bits=5), ActivationScheme(bits=16, kind="dynamic")),
    "weights_only": (nn.Linear, WeightScheme(granularity="tensor", bits=2), None),
}
INTEGER = [name for name in SCHEMES if name.startswith(("static", "dynamic"))]


class Tied(nn.Module):
    """A table, a head that is tied to it, and one that reads the table's weights itself."""

    def __init__(self, weights: WeightScheme) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table, self.head = nn.Embedding(TOKENS, 2 * WIDTH), nn.Linear(2 * WIDTH, TOKENS, bias=False)
        self.head.weight = self.table.weight
        made = [
            quantize_layer(layer, LayerScheme(weights=weights, activations=None)) for layer in (self.table, self.head)
        ]
        freeze(made)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.table(ids)
        return torch.cat([x, self.head(x), nn.functional.linear(x, self.table.weight)], -1)


class Layers(nn.Module):
    """Layers side by side over the same inputs."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleDict(
            {name: kind(OUT, WIDTH) if kind is Conv1D else kind(WIDTH, OUT) for name, (kind, _, _) in SCHEMES.items()}
        )
        for name, (_, weights, activations) in SCHEMES.items():
            layer = quantize_layer(self.layers[name], LayerScheme(weights=weights, activations=activations))
            with torch.no_grad():
                layer.weight.normal_()
                assert isinstance(layer.bias, Tensor)
                layer.bias.normal_()
                if layer.static:
                    layer.input_range.copy_(torch.tensor([-1.5, 2.0]))
            freeze([layer])

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([layer(x) for layer in self.layers.values()], dim=-1)


def rounded(x: NDArray[np.float64], scale: float, zero: float, low: int, high: int) -> NDArray[np.float64]:
    return scale * (np.clip(np.rint(x / scale) + zero, low, high) - zero)


def oracle(layer: QuantizedLayer, transposed: bool, x: NDArray[np.float64]) -> NDArray[np.float64]:
    """The layer in float64, from its integers and scales."""
    q = layer.integers().numpy().astype(np.float64)
    q = q.T if transposed else q
    scale = layer.weight_scale.numpy().astype(np.float64)
    zero = np.zeros_like(scale) if layer.weight_zero_point is None else layer.weight_zero_point.numpy()
    if scale.ndim:
        groups = 1 if scale.ndim == 1 else scale.shape[1]
        scale, zero = (np.repeat(v.reshape(OUT, groups), WIDTH // groups, axis=1) for v in (scale, zero))
    scheme = layer.scheme.activations
    if scheme is not None:
        low, high = scheme.bounds
        for row in range(len(x)):
            if layer.input_scale is not None:
                s, z = float(layer.input_scale), float(layer.input_zero_point)  # type: ignore[arg-type]
            elif scheme.symmetric:
                s, z = np.abs(x[row]).max() / high, 0.0
            else:
                a, b = min(x[row].min(), 0), max(x[row].max(), 0)
                s = (b - a) / (high - low)
                z = np.clip(low - np.rint(a / s), low, high)
            x[row] = rounded(x[row], s, z, low, high)
    return x @ (scale * (q - zero)).T + layer.bias.detach().numpy()  # type: ignore[union-attr, operator]


@pytest.fixture(scope="module")
def layers() -> Layers:
    return Layers().eval()


@pytest.fixture(scope="module", params=[False, pytest.param(True, marks=pytest.mark.slow)], ids=["int8", "uint8"])
def path(request: pytest.FixtureRequest, layers: Layers, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("onnx") / "model.onnx"
    to_onnx(with_integers(layers, unsigned=request.param), path, {"x": torch.zeros(1, WIDTH)})
    return path


def test_every_layer_agrees_with_its_integers_in_float64(layers: Layers, path: Path) -> None:
    x = torch.randn(50, WIDTH, generator=torch.Generator().manual_seed(1))
    found = logits(session(path), {"x": x}).double().numpy()
    for index, (name, layer) in enumerate(layers.layers.items()):
        assert isinstance(layer, QuantizedLayer)
        expected = oracle(layer, SCHEMES[name][0] is Conv1D, x.double().numpy().copy())
        error = np.abs(found[:, index * OUT : (index + 1) * OUT] - expected)
        # Half a step of the input's grid away from an integer, float32 may round the other way: one row at most.
        assert (error.max(axis=1) > 1e-5 * np.abs(expected).max()).sum() <= 1, name


def test_products_of_integers_are_products_of_integers_in_the_runtime(path: Path) -> None:
    assert sum(integer_matmuls(path).values()) == len(INTEGER)


def test_their_weights_are_integers_in_the_file(path: Path, request: pytest.FixtureRequest) -> None:
    found = {i.name.split(".")[-2]: i for i in onnx.load(path).graph.initializer if i.name.endswith(".integers")}
    unsigned = "uint8" in request.node.name
    wanted = onnx.TensorProto.UINT8 if unsigned else onnx.TensorProto.INT8
    for name in INTEGER:
        assert list(found[name].dims) == [WIDTH, OUT]
        assert found[name].data_type == wanted


def test_weights_of_4_bits_that_are_not_multiplied_as_integers_are_stored_two_to_a_byte(path: Path) -> None:
    nodes = [node for node in onnx.load(path).graph.node if node.op_type == "MatMulNBits"]
    stored = {i.name: i for i in onnx.load(path).graph.initializer}
    assert [list(stored[node.input[1]].dims) for node in nodes] == [[OUT, WIDTH // 16, 8]] * 4
    assert all(stored[node.input[1]].data_type == onnx.TensorProto.UINT8 for node in nodes)


def test_the_largest_integer_is_that_of_the_products(layers: Layers) -> None:
    expected = max(int(np.abs(layers.layers[name].integers().numpy().astype(int)).max()) for name in INTEGER)
    assert largest_integer(frozen_layers(layers)) == expected == 128


def test_without_quantization_the_weights_stay_and_the_inputs_pass(layers: Layers) -> None:
    plain = without_quantization(layers)
    assert not frozen_layers(plain)
    assert {type(m) for m in plain.layers.values()} == {nn.Linear, Conv1D}
    assert set(plain.state_dict()) == {f"layers.{name}.{kind}" for name in SCHEMES for kind in ("weight", "bias")}
    x = torch.randn(3, WIDTH)
    weight = layers.layers["static"].weight
    torch.testing.assert_close(plain.layers["static"](x), x @ weight.T + layers.layers["static"].bias)
    assert len(frozen_layers(layers)) == len(SCHEMES)


@pytest.mark.parametrize(
    "weights",
    [
        WeightScheme(bits=4),
        WeightScheme(bits=2, granularity="tensor"),
        WeightScheme(bits=4, granularity="group", group_size=16, symmetric=False),
        WeightScheme(bits=3, granularity="group", group_size=48, symmetric=False),
    ],
    ids=str,
)
def test_a_table_of_4_bits_is_stored_once_two_to_a_byte_with_the_head_that_is_tied_to_it(
    weights: WeightScheme, tmp_path: Path
) -> None:
    model, ids = Tied(weights).eval(), torch.tensor([[0, 3, 9], [1, 1, 5]])
    to_onnx(with_integers(model, unsigned=False), tmp_path / "model.onnx", {"ids": ids})
    graph = onnx.load(tmp_path / "model.onnx").graph
    assert {"GatherBlockQuantized", "MatMulNBits"} <= {node.op_type for node in graph.node}
    assert [list(i.dims) for i in graph.initializer if np.prod(i.dims) >= TOKENS * WIDTH] == [[TOKENS, WIDTH]]
    q = model.table.integers().double()
    scale = model.table.weight_scale.double().reshape(-1, 1) if weights.group_size is None else model.table.weight_scale
    groups = 1 if weights.group_size is None else 2 * WIDTH // weights.group_size
    zero = model.table.weight_zero_point
    zero = torch.zeros_like(scale) if zero is None else zero.double().reshape(scale.shape)
    values = ((q.unflatten(1, (groups, -1)) - zero.unsqueeze(-1)) * scale.double().unsqueeze(-1)).flatten(1)
    rows = values[ids]
    expected = torch.cat([rows, rows @ values.T, rows @ values.T], -1)
    found = logits(session(tmp_path / "model.onnx"), {"ids": ids}).double()
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-4)


def test_a_table_whose_blocks_the_runtime_does_not_know_is_stored_a_byte_each(tmp_path: Path) -> None:
    model, ids = Tied(WeightScheme(bits=4, granularity="group", group_size=8)).eval(), torch.tensor([[0, 3]])
    to_onnx(with_integers(model, unsigned=False), tmp_path / "model.onnx", {"ids": ids})
    assert "GatherBlockQuantized" not in {node.op_type for node in onnx.load(tmp_path / "model.onnx").graph.node}
    torch.testing.assert_close(logits(session(tmp_path / "model.onnx"), {"ids": ids}), model(ids), rtol=1e-5, atol=1e-4)
