"""Which runs one picture compares, and which of them are the best."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from distill.core.utils.errors import UserError
from distill.run.folder import Run

SCRIPTS = Path(__file__).parents[2] / "scripts"


@pytest.fixture
def pareto(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(SCRIPTS))
    import pareto

    return pareto


def exported(folder: Path, name: str, monitor: str = "accuracy", reference: str | None = "the float teacher") -> str:
    """A finished run with an export."""
    run = Run.create(folder, name, {}, "one")
    mode = "max" if monitor == "accuracy" else "min"
    run.write_result({"monitor": monitor, "mode": mode, "scores": {"student": {monitor: 0.5}}})
    report: dict[str, Any] = {"bytes": 100, "latency_ms": {"export": 1.0, reference or "": 2.0}}
    report |= {"reference": {"name": reference}} if reference else {}
    (run.folder / "exports/onnx").mkdir(parents=True)
    (run.folder / "exports/onnx/export.json").write_text(json.dumps(report))
    return str(run.folder)


def test_the_front_is_of_the_low_scores_where_less_is_better(pareto: Any) -> None:
    points = [(1.0, 0.9), (2.0, 0.7), (3.0, 0.8), (4.0, 0.95)]
    assert pareto.best(points, "max") == [(1.0, 0.9), (4.0, 0.95)]
    assert pareto.best(points, "min") == [(1.0, 0.9), (2.0, 0.7)]


def test_an_export_without_a_reference_is_refused(pareto: Any, tmp_path: Path) -> None:
    assert pareto.Exported.of(exported(tmp_path, "a")).speed == 2.0
    with pytest.raises(UserError, match="without a teacher to time it against"):
        pareto.Exported.of(exported(tmp_path, "b", reference=None))


@pytest.mark.parametrize(
    ("other", "rule"),
    [({"monitor": "bits_per_byte"}, "differ in their metric"), ({"reference": "the float student"}, "in their ref")],
)
def test_what_does_not_compare_is_refused(pareto: Any, tmp_path: Path, other: dict[str, str], rule: str) -> None:
    found = [pareto.Exported.of(exported(tmp_path, name, **more)) for name, more in (("a", {}), ("b", other))]
    pareto.check_alike(found[:1])
    with pytest.raises(UserError, match=rule):
        pareto.check_alike(found)


def test_names_of_points_that_coincide_are_written_below_each_other(pareto: Any) -> None:
    assert pareto.lines_below([(10.0, 0.5), (10.1, 0.5), (10.0, 0.9), (1.0, 0.5), (9.9, 0.501)]) == [0, 1, 0, 0, 2]


def test_the_picture_is_drawn(tmp_path: Path) -> None:
    folders = [exported(tmp_path, "a", "bits_per_byte"), exported(tmp_path, "b", "bits_per_byte")]
    command = [sys.executable, str(SCRIPTS / "pareto.py"), *folders, "--out", str(tmp_path / "pareto.png")]
    subprocess.run(command, check=True, capture_output=True)
    assert (tmp_path / "pareto.png").stat().st_size > 10_000
