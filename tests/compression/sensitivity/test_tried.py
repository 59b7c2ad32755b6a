"""A scan that was killed resumes with what it had tried."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from distill.compression.sensitivity import scan as scanning
from distill.compression.sensitivity.scan import Point
from distill.compression.sensitivity.tried import Tried, identity
from distill.core.signals import Batch

Distill = Callable[..., Any]

POINTS = [Point("a", 6, "sparsity", 0.5, 0.1 + 0.2, 1e-7), Point("a", 6, "bits", 4.0, float("nan"), 3.0)]


def test_what_was_tried_is_found_again_by_the_same_scan_alone(tmp_path: Path) -> None:
    file = tmp_path / ".tried"
    first = Tried(file, "one")
    for point in POINTS:
        first.add(point)
    again = Tried(file, "one")
    assert again.find("a", "sparsity", 0.5) == POINTS[0]
    assert repr(again.find("a", "bits", 4)) == repr(POINTS[1])
    assert again.find("a", "bits", 2) is None
    assert Tried(file, "two").points == []
    assert Tried(file, "one").points == []  # the second has taken its place


@pytest.mark.parametrize("cut", [1, 5, 40])
def test_a_line_that_was_cut_off_is_tried_again(cut: int, tmp_path: Path) -> None:
    file = tmp_path / ".tried"
    first = Tried(file, "one")
    for point in POINTS:
        first.add(point)
    file.write_bytes(file.read_bytes()[:-cut])
    left = Tried(file, "one")
    assert left.points[:1] == POINTS[: len(left.points)][:1]
    assert left.find("a", "bits", 4) is None or cut == 1  # the end of the line alone was lost
    left.add(POINTS[1])
    assert Tried(file, "one").find("a", "bits", 4) is not None


STRANGE = [
    b'"one"\n["a", %s, "bits", 4, %s, 0.5]\n' % item for item in ((b"Infinity", b"1"), (b"1", b"1" + b"0" * 400))
]


@pytest.mark.parametrize("content", [b"", b"\xff", b"[" * 100_000, b'"one"\n{"a": 1}\n', b'"one"\n[1]\n', *STRANGE])
def test_nonsense_is_made_anew(content: bytes, tmp_path: Path) -> None:
    (tmp_path / ".tried").write_bytes(content)
    assert Tried(tmp_path / ".tried", "one").points == []
    assert (tmp_path / ".tried").read_text() == '"one"\n'


def test_a_scan_is_known_by_its_weights_its_data_and_its_metric() -> None:
    def of(seed: int = 0, shift: float = 0.0, metric: str = "f1", label: int = 1) -> str:
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
        model[1].running_mean += shift
        return identity(model, [Batch({"input": torch.ones(1, 2)}, torch.tensor([label]))], metric)

    assert of() == of()
    assert len({of(), of(seed=1), of(shift=1.0), of(metric="accuracy"), of(label=0)}) == 5


def test_a_scan_is_known_by_what_counts_in_its_data_and_by_names() -> None:
    rows, some = torch.zeros(2, 3), torch.tensor([[True, True, False], [True, False, False]])
    model = nn.Linear(3, 1)
    batches = [
        Batch({name: rows}, mask=mask, tokens=tokens)
        for name in ("input", "x")
        for mask in (None, some, ~some)
        for tokens in (None, some)
    ]
    assert len({identity(model, [batch], "f1") for batch in batches}) == len(batches)
    assert identity(model, batches[:1], "f1") == identity(model, batches[:1], "f1")


@pytest.mark.slow
def test_a_killed_scan_resumes_and_ends_as_one_that_was_not(
    base: dict[str, Any], fitted: Callable[..., Path], distill: Distill, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = {**(scanning.scan.__kwdefaults__ or {}), "sparsities": (0.5, 0.8), "bits": (8, 4)}
    monkeypatch.setattr(scanning.scan, "__kwdefaults__", few)
    run = fitted()
    assert distill("sensitivity", str(run), "--samples", "4", "--output", "undisturbed").code == 0
    evaluate, calls = scanning._evaluate, []

    def until(most: int) -> Callable[..., Any]:
        def counted(*given: Any) -> Any:
            calls.append(1)
            if len(calls) > most:
                raise KeyboardInterrupt
            return evaluate(*given)

        return counted

    monkeypatch.setattr(scanning, "_evaluate", until(6))
    assert distill("sensitivity", str(run), "--samples", "4").code == 130
    done, _ = len(calls) - 1, calls.clear()
    monkeypatch.setattr(scanning, "_evaluate", until(10_000))
    code, out, err = distill("sensitivity", str(run), "--samples", "4")
    assert code == 0, err
    assert f"an earlier scan, which had tried {done - 1}" in out  # besides the model as it is
    whole, again = Path("undisturbed"), run / "sensitivity"
    assert sorted(path.name for path in again.iterdir()) == sorted(path.name for path in whole.iterdir())
    assert (again / "points.csv").read_bytes() == (whole / "points.csv").read_bytes()
    assert len(calls) == len((again / "points.csv").read_text().splitlines()) - 1 - (done - 1) + 1
    shutil.rmtree("undisturbed")
