"""Weights of formats with levels of their own are small in an ONNX file, and onnxruntime computes what torch does."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
import torch
from torch import Tensor, nn

from distill.compression.quantization.layers import quantize_layer
from distill.compression.quantization.lifecycle import freeze
from distill.compression.quantization.scheme import ActivationScheme, LayerScheme, WeightScheme, usual
from distill.export.onnx.convert import multiplies_integers, with_integers
from distill.export.onnx.graph import to_onnx
from distill.export.onnx.runtime import logits, session

LARGE = ("nf4", "fp8_e4m3", "fp16", "bf16")
"""Of more weights than the exporter folds into a constant of floats."""

CASES = (
    *(
        ("nf4", "channel"),
        ("nf4", "tensor"),
        ("apot", "group"),
        ("mxfp4", "group"),
        ("nvfp4", "group"),
        ("fp16", "channel"),
    ),
    *(("fp8_e4m3", "channel"), ("bf16", "channel"), ("kmeans", "tensor"), ("kmeans", "channel"), ("kmeans", "group")),
)


def scheme(name: str, granularity: str) -> WeightScheme:
    bits, size = usual(name)
    size = size or (8 if granularity == "group" else None)
    return WeightScheme(bits=bits, granularity=granularity, group_size=size, format=name)  # type: ignore[arg-type]


class Net(nn.Module):
    """A map for each format, and layers of every kind for some."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table, self.head, self.other = nn.Embedding(64, 32), nn.Linear(32, 64, bias=False), nn.Embedding(64, 32)
        self.head.weight = self.table.weight
        self.maps = nn.ModuleList(nn.Linear(32, 600 if name in LARGE else 8) for name, _ in CASES)
        self.conv, self.back = nn.Conv1d(32, 4, 3, padding=1), nn.ConvTranspose1d(32, 4, 2, stride=2)
        schemes = [(self.maps[number], case) for number, case in enumerate(CASES)]
        schemes += [
            (self.other, ("nf4", "channel")),
            (self.conv, ("kmeans", "channel")),
            (self.back, ("fp4", "tensor")),
        ]
        together = []
        for number, (layer, case) in enumerate(schemes):
            inputs = ActivationScheme(kind="dynamic") if number % 2 and isinstance(layer, nn.Linear) else None
            together.append(quantize_layer(layer, LayerScheme(weights=scheme(*case), activations=inputs)))
        tied = LayerScheme(weights=scheme("kmeans", "channel"))
        together += [quantize_layer(layer, tied) for layer in (self.table, self.head)]
        freeze(together)
        assert not any(map(multiplies_integers, together))

    def forward(self, input_ids: Tensor) -> Tensor:
        x = self.table(input_ids) + self.other(input_ids)
        out = [self.head(x), self.conv(x.mT).mT, self.back(x.mT)[..., ::2].mT]
        return torch.cat([*out, *(one(x) for one in self.maps)], -1)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("levels") / "model.onnx"
    ids = torch.arange(12).view(2, 6)
    to_onnx(with_integers(Net().eval(), unsigned=False), path, {"input_ids": ids})
    return path


def test_onnxruntime_computes_what_torch_does(path: Path) -> None:
    ids = torch.randint(0, 64, (3, 5), generator=torch.Generator().manual_seed(1))
    found = logits(session(path), {"input_ids": ids})
    torch.testing.assert_close(found, Net().eval()(ids), rtol=1e-4, atol=1e-4)


def test_weights_are_a_byte_each_and_gathered_from_tables(path: Path) -> None:
    model = onnx.load(path)
    assert sum(node.op_type in ("Gather", "GatherElements") for node in model.graph.node) >= 5
    large = [one for one in model.graph.initializer if one.dims and torch.Size(one.dims).numel() > 10_000]
    kinds = sorted(onnx.TensorProto.DataType.Name(one.data_type) for one in large)
    assert kinds == ["BFLOAT16", "FLOAT16", "UINT8", "UINT8", "UINT8"]
