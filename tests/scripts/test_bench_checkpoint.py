"""The measurement of what a checkpoint costs."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import distill

SCRIPT = Path(distill.__file__).parents[1] / "scripts" / "bench_checkpoint.py"


@pytest.fixture
def bench() -> Any:
    spec = importlib.util.spec_from_file_location("bench_checkpoint", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_it_measures_every_contender_and_leaves_nothing(
    bench: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # On a clock that advances by so many seconds for each; for steps by more while a checkpoint is being written.
    seconds = {"_plain": 1, "snapshot": 3, "is_intact": 6, "_steps": 7}
    methods = {(bench.TorchCheckpointIO, "save_checkpoint"): 2}
    methods |= {(bench.SafeCheckpointIO, "save_checkpoint"): 4, (bench.SafeCheckpointIO, "flush"): 5}
    now, done = 0.0, ""

    def timed(name: str, original: Callable[..., Any], takes: float) -> Callable[..., Any]:
        def call(*given: Any) -> Any:
            nonlocal now, done
            start, written = now, done == "save_checkpoint"
            found = original(*given)
            now, done = start + takes + (name == "_steps" and written), name
            return found

        return call

    for (owner, name), takes in {**{(bench, name): takes for name, takes in seconds.items()}, **methods}.items():
        monkeypatch.setattr(owner, name, timed(name, getattr(owner, name), takes))
    monkeypatch.setattr(bench.time, "perf_counter", lambda: now)
    figures = bench.main(["--megabytes", "1", "--repeats", "2", "--folder", str(tmp_path)])
    assert list(figures.values()) == [1, 2, 3, 4, 5, 6, 7, 8]
    said = capsys.readouterr().out
    assert [f"{value}.000" in said for value in range(1, 9)] == [True] * 8
    assert "ours: the step waits" in said
    assert not list(tmp_path.iterdir())
