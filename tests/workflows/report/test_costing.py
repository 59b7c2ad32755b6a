"""An export is timed beside teacher and student in float, in its own runtime."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel

from distill.export.onnx.write import Onnx, OnnxInt8
from distill.tasks import TASKS
from distill.workflows.report.costing import costs_of
from distill.workflows.report.costs import Generation
from distill.workflows.report.generation import generation_of
from distill.workflows.report.predictions import Options, Subject

SAMPLE = {"input": torch.randn(1, 6)}


def subject(key: str, role: Any, model: nn.Module | None, task: str = "plain", **more: Any) -> Subject:
    job: Any = SimpleNamespace(module=SimpleNamespace(task=TASKS[task]()))
    return Subject(key, role, job, job, None, model, **more)


def test_an_export_is_timed_beside_models_in_float_in_its_runtime(tmp_path: Path) -> None:
    torch.manual_seed(0)
    teacher, rounded, plain = (nn.Sequential(nn.Linear(6, n), nn.Linear(n, 2)).eval() for n in (64, 8, 8))
    Onnx().write(plain, tmp_path, {"input": torch.randn(2, 6)})
    subjects = [
        subject("teacher", "teacher", teacher),
        subject("student", "compressed", rounded),
        subject("in float", "float", plain, of="student"),
        subject("onnx", "exported", None, of="student", source=str(tmp_path), target=OnnxInt8(), runtime="onnxruntime"),
    ]
    notes: list[str] = []
    found = costs_of(subjects, SAMPLE, None, Options(seconds=0.3), notes)
    runtimes = {key: {(one.runtime, one.threads, one.batch) for one in calls} for key, calls in found.latency.items()}
    assert {("torch", 1, 1), ("onnxruntime", 1, 1)} <= runtimes["teacher"] & runtimes["in float"]
    assert {one[0] for one in runtimes["onnx"]} == {"onnxruntime"}
    assert "student" not in runtimes  # in torch its rounding is simulated
    assert {one.runtime for one in found.memory["in float"]} == {"torch", "onnxruntime"}
    [torch_bytes] = [one.peak_bytes for one in found.memory["teacher"] if one.runtime == "torch"]
    assert torch_bytes == 4 * (6 * 64 + 64 + 64 * 2 + 2) + 4 * (64 + 2)
    assert found.others.cores is None or found.others.cores >= 0


def test_nothing_is_timed_where_that_is_not_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("distill.workflows.report.costing.latencies", pytest.fail)
    found = costs_of([subject("a", "teacher", nn.Linear(6, 2))], SAMPLE, None, Options(timed=False), [])
    assert (dict(found.latency), dict(found.memory), found.others.cores) == ({}, {}, None)


def test_language_models_write_as_many_tokens_as_they_have_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = {"n_embd": 8, "n_head": 2, "n_layer": 1, "vocab_size": 20, "n_positions": 24}
    model = GPT2LMHeadModel(GPT2Config(**sizes, bos_token_id=0, eos_token_id=0)).eval()
    asked: list[int] = []

    def taken(runs: Any, seconds: float) -> list[list[float]]:
        asked.extend(len(run()) for run in runs)
        return [[10.0], [60.0]]

    monkeypatch.setattr("distill.workflows.report.generation.turns", taken)
    one = [subject("student", "distilled", model, "causal-lm"), subject("mute", "teacher", nn.Linear(2, 2))]
    notes: list[str] = []
    found = generation_of(one, ["student", "mute"], {"input_ids": torch.arange(20)[None]}, 1.0, notes)
    assert asked == [1, 12]  # of 24 positions half are the prompt's; past any end
    assert found == {"student": [Generation("torch", 1, 12, 11, pytest.approx(1000 * 11 / 50), 10.0)]}
    assert notes[0].startswith("mute writes nothing")
    assert generation_of([subject("a", "teacher", model)], ["a"], SAMPLE, 1.0, []) == {}
