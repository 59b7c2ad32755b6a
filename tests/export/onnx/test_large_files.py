"""Weights that do not fit into one file lie beside it, and everything that reads or counts the file knows both."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from torch import nn

from distill.compression.quantization.ptq import quantize
from distill.compression.quantization.scheme import ActivationScheme, WeightScheme
from distill.core.signals import Batch
from distill.export.folder import CHECKSUMS
from distill.export.onnx import graph
from distill.export.onnx.runtime import logits, session
from distill.export.openvino import FILE, Session
from distill.export.script import SCRIPT
from distill.export.student import export
from distill.export.targets import TARGETS
from distill.export.verify import torch_logits
from distill.tasks import Plain

X = torch.randn(8, 64, generator=torch.Generator().manual_seed(0))
WEIGHTS = 4 * 64 * 64


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graph, "LARGEST_FILE", 1000)


def net(*, integers: bool = False) -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 3)).eval()
    if integers:
        scheme = WeightScheme(reduced_range=True)
        quantize(model, [X], weights=scheme, activations=ActivationScheme(symmetric=True), include=[".*"])
    return model


def shipped(to: str, model: nn.Module, folder: Path) -> tuple[dict[str, Any], Path]:
    """Exported, and then moved elsewhere."""
    batch = Batch({"x": X}, labels=torch.arange(8) % 3)
    report = export(model, to, folder / "made", [batch], task=Plain())
    return report, (folder / "made").rename(folder / "moved")


@pytest.mark.parametrize(
    ("to", "integers", "share"),
    [("onnx", False, 1.0), ("triton", False, 1.0), ("onnx-fp16", False, 0.5), ("tensorrt", True, 0.25)],
)
def test_weights_lie_beside_the_graph(to: str, integers: bool, share: float, tmp_path: Path) -> None:
    model = net(integers=integers)
    report, folder = shipped(to, model, tmp_path)
    file = folder / str(TARGETS[to].onnx)
    weights = file.with_name(f"{file.name}.data")
    assert weights.stat().st_size >= share * WEIGHTS
    assert {path.name for path in file.parent.glob("model*")} == {file.name, weights.name}
    assert report["bytes"] >= weights.stat().st_size + file.stat().st_size
    assert f"{weights.relative_to(folder).as_posix()}\n" in (folder / CHECKSUMS).read_text()
    stored = onnx.load(file, load_external_data=False).graph.initializer
    places = {entry.value for kept in stored for entry in kept.external_data if entry.key == "location"}
    assert places == {weights.name}, "relative to the file, wherever it is moved"
    expected = torch_logits(model)({"x": X})
    assert (logits(session(file), {"x": X}) - expected).norm() < 0.02 * expected.norm()


def test_the_script_reads_both(tmp_path: Path) -> None:
    _, folder = shipped("onnx", net(), tmp_path)
    ran = subprocess.run([sys.executable, SCRIPT], cwd=folder, capture_output=True, text=True, timeout=60)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.startswith("[[")


def test_openvino_takes_both(tmp_path: Path) -> None:
    model = net()
    _, folder = shipped("openvino", model, tmp_path)
    torch.testing.assert_close(
        logits(Session(folder / FILE), {"x": X}), torch_logits(model)({"x": X}), atol=1e-5, rtol=1e-4
    )
