"""A graph for TensorRT keeps its rules, and what cannot is refused by the layer."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from distill.compression.quantization.ptq import quantize
from distill.compression.quantization.scheme import ActivationScheme
from distill.core.signals import Batch
from distill.core.utils.errors import UserError
from distill.export.onnx.write import MODEL
from distill.export.targets import check, write
from distill.export.tensorrt import TensorRT, violations
from distill.tasks import Plain


def net() -> tuple[nn.Module, Batch]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(288, 16), nn.ReLU(), nn.Linear(16, 3))
    x = torch.randn(32, 3, 8, 8)
    quantize(model.eval(), [x], activations=ActivationScheme(symmetric=True), include=[".*"])
    return model, Batch({"x": x}, labels=torch.arange(32) % 3)


def test_integers_are_pairs_around_zero_and_biases_floats(tmp_path: Path) -> None:
    model, batch = net()
    report = write(TensorRT(), model, tmp_path, task=Plain(), batches=lambda: [batch])
    assert report["verified"]["mean_error"] < 0.02
    assert report["inputs"] == {"x": ["batch", 3, 8, 8]}
    graph = onnx.load(tmp_path / MODEL).graph
    kept = {one.name: one for one in graph.initializer}
    pairs = [node for node in graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")]
    assert Counter(node.op_type for node in pairs)["QuantizeLinear"] >= 3
    for node in pairs:
        point = kept[node.input[2]]
        assert point.data_type == TensorProto.INT8
        assert not numpy_helper.to_array(point).any()
    weights = [kept[node.input[0]] for node in pairs if node.input[0] in kept]
    assert [one.data_type for one in weights] == [TensorProto.INT8] * 3, "and no bias of int32"
    [conv] = [node for node in graph.node if node.op_type == "Conv"]
    assert kept[conv.input[2]].data_type == TensorProto.FLOAT


def test_a_zero_point_is_refused_by_the_layer(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3)).eval(), torch.randn(32, 8)
    quantize(model, [x], activations=ActivationScheme(), include=[".*"])
    batch = Batch({"x": x}, labels=torch.arange(32) % 3)
    said = r"--to = 'tensorrt': cannot hold .*what \d rounds has a zero point.*symmetric: true.*one of --to onnx, "
    with pytest.raises(UserError, match=said):
        check(TensorRT(), model)
    with pytest.raises(UserError, match=said):  # by the graph too, where the scheme does not tell
        write(TensorRT(), model, tmp_path, task=Plain(), batches=lambda: [batch])


def graph(op: str, domain: str = "", **kept: np.ndarray) -> onnx.GraphProto:
    node = helper.make_node(op, list(kept), ["y"], domain=domain)
    return helper.make_graph([node], "g", [], [], [numpy_helper.from_array(a, n) for n, a in kept.items() if a.size])


def test_each_rule_is_told() -> None:
    zero, one, x = np.int8(0), np.float32(1), np.zeros(0, np.float32)
    put = {"x": x, "model.a.b.input.scale": np.asarray(one), "zero": np.asarray(zero)}
    assert list(violations(graph("QuantizeLinear", **put))) == []
    scales = put | {"model.a.b.input.scale": np.ones(4, np.float32)}
    assert list(violations(graph("QuantizeLinear", **scales))) == ["a.b has 4 scales, where one is allowed"]
    computed = put | {"model.a.b.input.scale": x}
    assert list(violations(graph("QuantizeLinear", **computed))) == ["the scale of a.b is computed, and not a constant"]
    for point in (np.uint8(0), np.int8(3)):
        [found] = violations(graph("QuantizeLinear", **put | {"zero": np.asarray(point)}))
        assert found == "what a.b rounds has a zero point"
    table = {"model.words.integers": np.zeros((4, 2), np.int8), "ids": x}
    assert list(violations(graph("Gather", **table))) == ["words looks up integers"]
    nibbles = {"x": x, "model.up.packed": np.zeros((4, 2), np.uint8)}
    [found] = violations(graph("MatMulNBits", "com.microsoft", **nibbles))
    assert found == "up is computed by MatMulNBits, an operator that it has not"
