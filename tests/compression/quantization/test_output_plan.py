"""What is rounded between layers: where a runtime computes with integers for it, and nowhere else."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from distill.compression.operations import watch
from distill.compression.quantization.output_plan import plan_outputs
from distill.compression.tracing import recorded


class Net(nn.Module):
    """Convolutions, norms and linear maps, with a way through them of its own."""

    def __init__(self, way: Callable[[Net, Tensor], Tensor]) -> None:
        super().__init__()
        self.a, self.b, self.c = (nn.Conv2d(2, 2, 3, padding=1) for _ in range(3))
        self.norm, self.layer_norm, self.linear = nn.BatchNorm2d(2), nn.LayerNorm(4), nn.Linear(2, 2)
        self.way = way

    def forward(self, x: Tensor) -> Tensor:
        return self.way(self, x)


def found(way: Callable[[Net, Tensor], Tensor], integer: str = "a b c linear") -> tuple[list[str], dict[str, str]]:
    """The kinds of the operations that are rounded, and layer -> kind of the point that it reads."""
    net = Net(way).eval()
    layers: set[nn.Module] = {net.get_submodule(name) for name in integer.split()}
    watch(net, layers)
    plan = plan_outputs(recorded(lambda: net(torch.randn(2, 2, 4, 4))).operations, layers)
    names = {module: name for name, module in net.named_modules()}
    read = {
        names[layer]: sources[0].kind
        for layer, sources in plan.read.items()
        if all(source in plan.points for source in sources)
    }
    return [point.kind for point in plan.points], read


WAYS: dict[str, tuple[Callable[[Net, Tensor], Tensor], list[str], dict[str, str]]] = {
    "a chain rounds inputs alone": (lambda n, x: n.c(n.b(F.relu(n.norm(n.a(x))))), [], {}),
    "a pool by maximum is part of the chain": (lambda n, x: n.b(F.max_pool2d(n.a(x), 2)), [], {}),
    "a residual addition": (
        lambda n, x: (lambda y: n.c(F.relu(n.norm(n.b(y)) + y)))(n.a(x)),
        ["layer", "batch_norm", "relu"],
        {"b": "layer", "c": "relu"},
    ),
    "two layers read one grid": (
        lambda n, x: (lambda y: n.b(y) + n.c(y))(F.relu(n.a(x))),
        ["relu", "layer", "layer", "add"],
        {"b": "relu", "c": "relu"},
    ),
    "a gate": (
        lambda n, x: (lambda y: n.c(y * torch.sigmoid(n.b(F.adaptive_avg_pool2d(y, 1)))))(n.a(x)),
        ["layer", "pool", "layer", "sigmoid", "mul"],
        {"b": "pool", "c": "mul"},
    ),
    "what is joined": (lambda n, x: torch.cat([n.a(x), n.b(x)], 1), ["layer", "layer", "cat"], {}),
    "a convolution before a norm of numbers": (lambda n, x: n.layer_norm(n.a(x)), ["layer"], {}),
    "what is added to numbers that nobody rounds": (lambda n, x: n.a(x) + x, ["layer"], {}),
    "a linear map is none that must be rounded": (lambda n, x: F.gelu(n.linear(x.mT[..., :2])), [], {}),
    "the last of a model": (lambda n, x: n.a(x), [], {}),
    "what is rounded for a convolution anyway": (
        lambda n, x: (lambda y: n.c(n.a(y) + y))(F.relu(n.layer_norm(x))),
        ["relu", "layer", "add"],
        {"a": "relu", "c": "add"},
    ),
    "a ReLU that does not alone read the sum stands for itself": (
        lambda n, x: (lambda y: n.c(F.relu(y) + y))(n.a(x) + n.b(x)),
        ["layer", "layer", "add", "relu", "add"],
        {"c": "add"},
    ),
}


@pytest.mark.parametrize("name", WAYS)
def test_what_is_rounded(name: str) -> None:
    way, points, read = WAYS[name]
    assert found(way) == (points, read)


def test_layers_of_no_integers_are_passed_over() -> None:
    assert found(lambda n, x: n.b(x) + n.a(x), "linear") == ([], {})
    assert found(lambda n, x: n.b(n.a(x) + x), "b") == ([], {})
