"""Latencies are measured side by side."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from distill.core.utils.errors import UserError
from distill.export.onnx import runtime
from distill.export.onnx.runtime import latency


class Clock:
    """Stands still but where a session says so."""

    now = 0.0

    def perf_counter(self) -> float:
        return self.now


class Run:
    def __init__(self, name: str, seconds: list[float], clock: Clock, calls: list[str]) -> None:
        self.name, self.seconds, self.clock, self.calls = name, iter(seconds), clock, calls

    def run(self, outputs: None, feeds: dict[str, object]) -> None:
        assert list(feeds) == ["x"]
        self.calls.append(self.name)
        self.clock.now += next(self.seconds)


def test_sessions_take_turns_and_the_median_counts_without_the_warm_up(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, calls = Clock(), list[str]()
    monkeypatch.setattr(runtime, "time", clock)
    sessions = {
        "a": Run("a", [9.0, 0.001, 0.002, 0.5], clock, calls),
        "b": Run("b", [9.0, 0.004, 0.003, 0.001], clock, calls),
    }
    found = latency(sessions, {name: {"x": torch.zeros(1)} for name in sessions}, repeats=3)
    assert found == pytest.approx({"a": 2.0, "b": 3.0})
    assert calls == ["a", "b"] * 4


def test_a_graph_that_onnxruntime_cannot_run_is_one_message(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"no graph")
    with pytest.raises(UserError, match=r"onnxruntime cannot run the graph.*distill\.load"):
        runtime.session(tmp_path / "model.onnx")
