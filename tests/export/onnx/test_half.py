"""A graph in half precision is half as large and does what the student does; grids are not rounded again."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
import torch
from torch import nn

from distill.core.signals import Batch
from distill.core.utils.errors import UserError
from distill.export.onnx.half import OnnxFp16
from distill.export.onnx.write import MODEL
from distill.export.targets import check, write
from distill.tasks import Plain


def test_weights_are_halves_inputs_and_logits_as_before(tmp_path: Path) -> None:
    torch.manual_seed(0)
    student = nn.Sequential(nn.Linear(8, 64), nn.LayerNorm(64), nn.GELU(), nn.Linear(64, 3)).eval()
    data = Batch({"input": torch.randn(64, 8)}, labels=torch.arange(64) % 3)
    report = write(OnnxFp16(), student, tmp_path, task=Plain(), batches=lambda: [data])
    assert report["verified"]["agreement"] >= 0.98
    assert 1e-6 < report["verified"]["mean_error"] < 0.005, "rounded, and by no more than halves are"
    graph = onnx.load(tmp_path / MODEL).graph
    kinds = {kept.data_type for kept in graph.initializer if len(kept.dims) == 2}
    assert kinds == {onnx.TensorProto.FLOAT16}
    [logits] = graph.output
    assert logits.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    assert [path.name for path in tmp_path.iterdir()] == [MODEL]


def test_weights_on_grids_are_not_rounded_again(quantized: nn.Module) -> None:
    with pytest.raises(UserError, match=r"--to = 'onnx-fp16': .*would round weights.*quantize.*onnx-int8"):
        check(OnnxFp16(), quantized)
