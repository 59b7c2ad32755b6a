"""OpenVINO runs what was trained: in float, and its integers."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from distill.core.signals import Batch
from distill.core.utils.errors import UserError
from distill.export import openvino as openvino_target
from distill.export.onnx.isa import host_isa
from distill.export.openvino import FILE
from distill.export.targets import TARGETS, write
from distill.export.verify import torch_logits
from distill.tasks import Plain, TextClassification


def written(
    student: nn.Module, folder: Path, task: Any, batches: list[Batch], isa: str | None = None
) -> dict[str, Any]:
    return write(TARGETS["openvino"](isa or host_isa()), student, folder, task=task, batches=lambda: batches)


@pytest.mark.slow
def test_integers_are_kept_at_any_size(
    quantized: nn.Module, task: TextClassification, batches: list[Batch], tmp_path: Path
) -> None:
    report = written(quantized, tmp_path, task, batches)  # of other sizes than the example
    assert report["verified"]["agreement"] >= 0.995
    stored = [
        node.get_element_type().get_type_name() for node in openvino_target.core().read_model(tmp_path / FILE).get_ops()
    ]
    assert sum(kind in ("i8", "u8") for kind in stored) >= 7


def test_integers_that_this_processor_cuts_off_are_refused(
    quantized: nn.Module,
    task: TextClassification,
    batches: list[Batch],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(openvino_target, "host_isa", lambda: "avx2")
    with pytest.raises(UserError, match=r"--isa = 'vnni': this processor cuts off"):
        written(quantized, tmp_path, task, batches, "vnni")
    assert not list(tmp_path.iterdir())


def net() -> tuple[nn.Module, list[Batch]]:
    torch.manual_seed(0)
    made = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)).eval()
    return made, [Batch({"x": torch.randn(4, 3, 8, 8)}, labels=torch.tensor([0, 1, 2, 0]))]


def test_a_float_net_is_run_and_timed_beside_onnxruntime(tmp_path: Path) -> None:
    model, batches = net()
    report = written(model, tmp_path, Plain(), batches)
    assert report["verified"]["relative_error"] < 1e-4
    assert set(report["latency_ms_beside"]) == {"openvino", "onnxruntime"}
    run = openvino_target.core().compile_model(tmp_path / FILE, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    found = run({"x": batches[0].inputs["x"].numpy()})[0]
    np.testing.assert_allclose(found, torch_logits(model)(batches[0].inputs).numpy(), rtol=1e-4, atol=1e-5)


def test_what_it_cannot_run_is_one_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken:
        def read_model(self, path: Path) -> Any:
            raise RuntimeError("Check failed at src/frontend.cpp:88:\n\nnot supported: my::Operator\n")

    monkeypatch.setattr(openvino_target, "core", Broken)
    with pytest.raises(UserError, match=r"OpenVINO cannot run the graph \(not supported: my::Operator\)"):
        written(net()[0], tmp_path, Plain(), net()[1])
    assert not (tmp_path / FILE).exists()


@pytest.mark.slow
def test_the_handlers_of_signals_have_a_stack_when_sessions_have_gone(tmp_path: Path) -> None:
    model, batches = net()
    written(model, tmp_path, Plain(), batches)
    code = """if True:
        import gc, signal, sys
        from pathlib import Path
        from distill.export.openvino import Session
        sessions = [Session(Path(sys.argv[1])) for _ in range(2)]
        while sessions:
            del sessions[0]
            gc.collect()
        signal.signal(signal.SIGUSR1, lambda *_: print("heard"))
        signal.raise_signal(signal.SIGUSR1)
    """
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / FILE)], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "heard\n"), done.stderr
