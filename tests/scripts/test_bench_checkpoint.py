"""The measurement of what a checkpoint costs."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

import distill

SCRIPT = Path(distill.__file__).parents[1] / "scripts" / "bench_checkpoint.py"


def test_it_measures_every_contender_and_leaves_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec = importlib.util.spec_from_file_location("bench_checkpoint", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    figures = module.main(["--megabytes", "1", "--repeats", "2", "--folder", str(tmp_path)])
    assert len(figures) == 8
    assert all(seconds > 0 for seconds in figures.values())
    assert "ours: the step waits" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())
