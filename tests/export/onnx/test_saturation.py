from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from distill.core.utils.errors import UserError
from distill.export.onnx import saturation
from distill.export.onnx.runtime import session
from distill.export.onnx.saturation import without_saturation

onnx = pytest.importorskip("onnx")

RANDOM = np.random.default_rng(0)
WIDE = RANDOM.integers(-128, 128, (8, 4)).astype(np.int8)
SCALES = np.array([0.5, 0.25, 1, 2], np.float32)
POINTS = np.array([-128, 0, 3, 127], np.int8)


def model(nodes: list[Any], kept: dict[str, NDArray[Any]], given: int) -> Any:
    """A graph from ``x [N, 8]`` to ``y``."""
    helper, floats = onnx.helper, onnx.TensorProto.FLOAT
    ends = helper.make_tensor_value_info("x", given, ["n", 8]), helper.make_tensor_value_info("y", floats, ["n", 4])
    tensors = [onnx.numpy_helper.from_array(array, name) for name, array in kept.items()]
    graph = helper.make_graph(nodes, "g", [ends[0]], [ends[1]], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def static(weight: NDArray[Any], points: NDArray[Any] | None) -> Any:
    """y = DQ(Q(x)) DQ(W)."""
    node, grid = onnx.helper.make_node, ["s", "z"]
    kept = {"s": np.float32(0.01), "z": np.uint8(100), "w": weight, "ws": SCALES}
    kept |= {} if points is None else {"wz": points}
    nodes = [
        node("QuantizeLinear", ["x", *grid], ["q"]),
        node("DequantizeLinear", ["q", *grid], ["a"]),
        node("DequantizeLinear", ["w", "ws", *([] if points is None else ["wz"])], ["b"], axis=1),
        node("MatMul", ["a", "b"], ["y"]),
    ]
    return model(nodes, {name: np.asarray(value) for name, value in kept.items()}, onnx.TensorProto.FLOAT)


def products(weight: NDArray[Any], points: NDArray[Any] | None) -> Any:
    """y = q (W - points), of bytes q."""
    inputs = ["x", "w"] if points is None else ["x", "w", "", "wz"]
    nodes = [
        onnx.helper.make_node("MatMulInteger", inputs, ["i"]),
        onnx.helper.make_node("Cast", ["i"], ["y"], to=onnx.TensorProto.FLOAT),
    ]
    return model(nodes, {"w": weight} | ({} if points is None else {"wz": points}), onnx.TensorProto.UINT8)


def weights(graph: Any) -> set[str]:
    return {onnx.TensorProto.DataType.Name(one.data_type) for one in graph.initializer if one.dims == [8, 4]}


@pytest.fixture
def older(monkeypatch: pytest.MonkeyPatch) -> None:
    """A processor without VNNI; where this is one, nothing is pretended."""
    monkeypatch.setattr(saturation, "host_isa", lambda: "avx2")


@pytest.mark.parametrize("points", [None, POINTS])
def test_what_would_be_cut_off_is_computed_in_full(points: Any, older: None, tmp_path: Path) -> None:
    onnx.save(static(WIDE, points), tmp_path / "model.onnx")
    x = RANDOM.normal(0, 0.7, (5, 8)).astype(np.float32)
    [found] = session(tmp_path / "model.onnx").run(None, {"x": x})
    steps = np.clip(np.round(x / np.float32(0.01)) + 100, 0, 255) - 100
    expected = (steps * 0.01) @ ((WIDE.astype(float) - (0 if points is None else points.astype(float))) * SCALES)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("points", [None, POINTS])
def test_products_without_scales_are_those_of_the_integers(points: Any, older: None, tmp_path: Path) -> None:
    onnx.save(products(WIDE, points), tmp_path / "model.onnx")
    q = RANDOM.integers(0, 256, (5, 8)).astype(np.uint8)
    q[0], q[1] = 255, 0
    [found] = session(tmp_path / "model.onnx").run(None, {"x": q})
    expected = q.astype(int) @ (WIDE.astype(int) - (0 if points is None else points.astype(int)))
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("make", [static, products])
@pytest.mark.parametrize(("largest", "found"), [(64, "INT8"), (65, "UINT8"), (-65, "UINT8")])
def test_only_weights_that_can_be_cut_off_are_stored_otherwise(make: Any, largest: int, found: str) -> None:
    weight = np.clip(WIDE, -60, 60)
    weight[3, 2] = largest
    graph = make(weight, POINTS).graph
    assert without_saturation(graph) is (found == "UINT8")
    assert weights(graph) == {found}


def test_a_table_of_two_layers_is_stored_once() -> None:
    graph = static(WIDE, POINTS).graph
    graph.node.append(onnx.helper.make_node("DequantizeLinear", ["w", "ws", "wz"], ["again"], axis=1))
    assert without_saturation(graph)
    assert weights(graph) == {"UINT8"}
    assert sum(one.dims == [8, 4] for one in graph.initializer) == 1


def test_integers_that_are_looked_up_stay() -> None:
    graph = static(WIDE, POINTS).graph
    graph.node.append(onnx.helper.make_node("Gather", ["w", "rows"], ["looked"]))
    assert without_saturation(graph)
    assert weights(graph) == {"INT8", "UINT8"}


def test_weights_in_a_file_beside_the_graph_are_read(older: None, tmp_path: Path) -> None:
    onnx.save(static(WIDE, POINTS), tmp_path / "plain.onnx")
    beside = {"save_as_external_data": True, "location": "model.data", "size_threshold": 0}
    onnx.save(static(WIDE, POINTS), tmp_path / "model.onnx", **beside)
    x = {"x": RANDOM.normal(0, 0.7, (5, 8)).astype(np.float32)}
    both = [session(tmp_path / name).run(None, x)[0] for name in ("plain.onnx", "model.onnx")]
    np.testing.assert_array_equal(*both)
    assert isinstance(saturation.for_this_machine(tmp_path / "model.onnx"), bytes)


def test_other_processors_open_the_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    onnx.save(static(WIDE, POINTS), tmp_path / "model.onnx")
    for isa in ("vnni", "arm"):
        monkeypatch.setattr(saturation, "host_isa", lambda isa=isa: isa)
        assert saturation.for_this_machine(tmp_path / "model.onnx") == str(tmp_path / "model.onnx")


def test_what_is_too_large_to_be_opened_otherwise_is_refused(
    monkeypatch: pytest.MonkeyPatch, older: None, tmp_path: Path
) -> None:
    onnx.save(static(WIDE, POINTS), tmp_path / "model.onnx")
    monkeypatch.setattr(saturation, "LARGEST", 100)
    with pytest.raises(UserError, match="cuts off products") as caught:
        session(tmp_path / "model.onnx")
    assert "avx2" in str(caught.value)
