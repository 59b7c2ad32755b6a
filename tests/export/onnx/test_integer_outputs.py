"""What is rounded between convolutions becomes integers in a runtime, from the first convolution to the pool."""

from __future__ import annotations

import logging
from collections import Counter
from pathlib import Path

import onnx
import pytest
import torch
from torch import Tensor, nn

from distill.compression.quantization.ptq import quantize
from distill.compression.quantization.scheme import ActivationScheme
from distill.core.signals import Batch
from distill.export.onnx.convert import without_quantization
from distill.export.onnx.graph import to_onnx
from distill.export.onnx.runtime import logits, session
from distill.export.onnx.write import MODEL
from distill.export.targets import TARGETS, write
from distill.tasks import Plain


class Gated(nn.Module):
    """A residual block with a gate, between a first layer and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.a, self.b = (nn.Conv2d(n, 8, 3, padding=1, bias=False) for n in (1, 8, 8))
        self.norms = nn.ModuleList(nn.BatchNorm2d(8) for _ in range(3))
        self.gate, self.act, self.head = nn.Conv2d(8, 8, 1), nn.Hardswish(), nn.Linear(16, 4)

    def forward(self, input: Tensor) -> Tensor:
        x = self.norms[0](self.stem(input)).relu()
        y = self.act(self.norms[1](self.a(x)))
        y = y * torch.sigmoid(self.gate(nn.functional.adaptive_avg_pool2d(y, 1)))
        y = torch.cat([(self.norms[2](self.b(y)) + x).relu(), x], 1)
        out: Tensor = self.head(nn.functional.adaptive_avg_pool2d(y, 1).flatten(1)) * 9
        return out


@pytest.fixture
def net() -> Gated:
    torch.manual_seed(0)
    net = Gated()
    for norm in net.norms:
        nn.init.uniform_(norm.weight, 0.5, 1.5)  # type: ignore[arg-type]
        nn.init.uniform_(norm.bias, -0.5, 0.5)  # type: ignore[arg-type]
    return net.eval()


def images() -> list[Batch]:
    x = torch.rand(200, 1, 8, 8, generator=torch.Generator().manual_seed(5)) * 3
    return [Batch({"input": part}, labels=torch.arange(100) % 4) for part in x.split(100)]


def operators(path: Path) -> Counter[str]:
    """Of the graph as it is run."""
    session(path, optimized=path.with_suffix(".run.onnx"))
    logging.getLogger("onnx").setLevel(logging.ERROR)
    return Counter(node.op_type for node in onnx.load(path.with_suffix(".run.onnx")).graph.node)


def test_all_of_a_residual_net_but_its_ends_is_integers(net: Gated, tmp_path: Path) -> None:
    quantize(net, [batch.inputs["input"] for batch in images()], activations=ActivationScheme())
    report = write(TARGETS["onnx-int8"]("vnni"), net, tmp_path, task=Plain(), batches=images)
    assert report["integer_matmuls"] == {"QLinearConv": 3}
    assert (report["integer_products"], report["float_products"]) == (3, {})
    found = operators(tmp_path / MODEL)
    expected = {
        "QLinearAdd": 1,
        "QLinearMul": 1,
        "QLinearConcat": 1,
        "QLinearGlobalAveragePool": 2,
        "QLinearSigmoid": 1,
    }
    assert {name: found[name] for name in expected} == expected
    assert found["Conv"] == 1  # the first layer


def test_a_float_export_of_it_rounds_nothing_between_layers(net: Gated, tmp_path: Path) -> None:
    quantize(net, [batch.inputs["input"] for batch in images()], activations=ActivationScheme())
    plain, x = without_quantization(net), images()[0].inputs["input"]
    assert not any("output" in name for name in plain.state_dict())
    to_onnx(plain, tmp_path / MODEL, {"input": x})
    with torch.no_grad():
        assert torch.allclose(logits(session(tmp_path / MODEL), {"input": x}), plain(x), atol=1e-4)
        assert not torch.allclose(net(x), plain(x), atol=1e-4)
    assert "QuantizeLinear" not in operators(tmp_path / MODEL)


def test_a_mean_over_other_dimensions_stays_a_mean(tmp_path: Path) -> None:
    class Mean(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(1, 4, 1), nn.Conv2d(4, 4, 1)

        def forward(self, input: Tensor) -> Tensor:
            return self.b(self.a(input).mean(2, keepdim=True)).flatten(1)

    torch.manual_seed(0)
    net, x = Mean().eval(), torch.randn(4, 1, 6, 6)
    quantize(net, [x], activations=ActivationScheme(), include=["."])
    report = write(
        TARGETS["onnx-int8"]("vnni"),
        net,
        tmp_path,
        task=Plain(),
        batches=lambda: [Batch({"input": x}, labels=torch.zeros(4).long())],
    )
    assert report["verified"]["mean_error"] < 0.02
