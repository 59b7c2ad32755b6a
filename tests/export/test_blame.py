"""What a runtime lacks is named: the operator, and the layer that it is in."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
import torch
from onnx import helper
from torch import Tensor, nn

from distill.core.signals import Batch
from distill.core.utils.errors import UserError
from distill.export.blame import layers_of, place_of, scoped
from distill.export.onnx.graph import to_onnx
from distill.export.targets import TARGETS, write
from distill.tasks import Plain


@torch.library.custom_op("distill_tests::twist", mutates_args=())
def twist(x: Tensor) -> Tensor:
    return x * 2


@twist.register_fake
def _(x: Tensor) -> Tensor:
    return torch.empty_like(x)


class Twist(nn.Module):
    """An operator of one's own."""

    def forward(self, x: Tensor) -> Tensor:
        return twist(x)


class Branch(nn.Module):
    """What it does depends on what is in the data."""

    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x


class Symbol(nn.Module):
    """An operator in the graph that onnxruntime or OpenVINO has not."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    def forward(self, x: Tensor) -> Tensor:
        pairs = x[:, None] * x[:, :, None]
        found: Tensor = torch.onnx.ops.symbolic(self.name, (pairs,), dtype=torch.float32, shape=x.shape[:1])
        return x + found.unsqueeze(1)


class Net(nn.Module):
    def __init__(self, odd: nn.Module) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 4), nn.Sequential(nn.ReLU(), odd))
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.head(self.body(x))
        return found


@pytest.mark.parametrize(
    ("to", "odd", "said"),
    [
        ("onnx", Twist, r"at distill_tests::twist in body\.1\.1 \(Twist\)"),
        ("onnx", Branch, r"torch\.onnx\.export cannot follow this Net in body\.1\.1 \(Branch\).*data-dependent"),
        ("torch-export", Branch, r"torch\.export cannot follow Net in body\.1\.1 \(Branch\).*data-dependent"),
        (
            "torch-export",
            lambda: Symbol("Det"),
            r"cannot write Net at onnx_symbolic\S+ in body\.1\.1 \(Symbol\)",
        ),
        (
            "onnx",
            lambda: Symbol("mine::Odd"),
            r"onnxruntime cannot .*mine:Odd.*; Odd is in body\.1\.1\); nothing",
        ),
        (
            "openvino",
            lambda: Symbol("Det"),
            r"OpenVINO cannot .*Det.*; Det is in body\.1\.1\); nothing was",
        ),
    ],
)
def test_operator_and_layer_are_named_and_no_more_is_said(
    to: str, odd: Callable[[], nn.Module], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    batch = Batch({"x": torch.randn(4, 4)}, labels=torch.arange(4) % 3)
    with pytest.raises(UserError, match=said):
        write(TARGETS[to](), Net(odd()).eval(), tmp_path, task=Plain(), batches=lambda: [batch])
    assert "def forward" not in capsys.readouterr().err  # torch prints the graph as far as it got


def test_nodes_are_named_by_their_layer(tmp_path: Path) -> None:
    to_onnx(Net(nn.Tanh()).eval(), tmp_path / "model.onnx", {"x": torch.randn(4, 4)})
    layers = {node.op_type: node.name.rpartition("/")[0] for node in onnx.load(tmp_path / "model.onnx").graph.node}
    assert layers["Tanh"] == "body.1.1"
    assert layers["Relu"] == "body.1.0"
    assert layers["Gemm"] == "head"


def test_where_nothing_tells_nothing_is_said() -> None:
    model = Net(nn.Tanh())
    assert place_of(RuntimeError("out of memory"), model) == ""
    with pytest.raises(RuntimeError) as of_another:
        Net(nn.Linear(3, 3))(torch.randn(2, 4))
    assert place_of(of_another.value, model) == ""


def test_the_innermost_layer_of_the_last_cause_is_told() -> None:
    model = Net(nn.Linear(3, 3))
    own = ValueError("the exporter's own")
    with pytest.raises(RuntimeError) as caught:
        model(torch.randn(2, 4))
    own.__cause__ = caught.value
    assert place_of(own, model) == " in body.1.1 (Linear)"


def test_a_layer_is_told_of_operators_that_are_named_alone(tmp_path: Path) -> None:
    nodes = [helper.make_node(kind, ["x"], ["y"], name=f"{layer}/n") for kind, layer in (("Det", "a"), ("Detour", "b"))]
    onnx.save(helper.make_model(helper.make_graph(nodes, "g", [], [])), tmp_path / "g.onnx")
    assert layers_of(tmp_path / "g.onnx", "no rule for Det-20") == "; Det is in a"
    assert layers_of(tmp_path / "g.onnx", "no rule for Detour") == "; Detour is in b"
    assert layers_of(tmp_path / "g.onnx", "out of memory") == ""


def test_scopes_are_those_of_the_student() -> None:
    assert scoped("add", "['', 'logits', 'logits.model.body', 'add']") == "body/add"
    assert scoped("add", "['', 'model', 'add']") == "add"
    assert scoped("add", "") == "add"
