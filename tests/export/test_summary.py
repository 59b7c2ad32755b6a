"""What an export says of itself."""

from __future__ import annotations

import gzip
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from distill.export.summary import MANY, STUDENT, show, sizes

REPORT = {
    "folder": "runs/a/b/exports/onnx-int8",
    "bytes": 2_000_000,
    "gzipped_bytes": 1_500_000,
    "verified": {
        "predictions": 872,
        "relative_error": 0.02,
        "mean_error": 0.01,
        "agreement": 0.9989,
        "metric": "accuracy",
        "trained": 0.9011,
        "exported": 0.9,
        "one_class": False,
    },
    "isa": "avx2",
    "weights": "int8",
    "largest_weight": 63,
    "quantized_layers": 16,
    "integer_products": 13,
    "integer_matmuls": {"MatMulIntegerToFloat": 13},
    "length": 128,
    "reference": {"name": "the float teacher", "bytes": 10_000_000, "gzipped_bytes": 9_000_000},
    "latency_ms": {"export": 4.0, "the float teacher": 10.0},
}


def test_a_file_of_zeros_is_as_large_as_any_and_small_only_when_compressed(tmp_path: Path) -> None:
    dense = np.random.default_rng(0).standard_normal(300_000, dtype=np.float32)
    dense[::10] = 0
    sparse = np.where(np.arange(300_000) % 10, np.float32(0), dense + 1)
    found = {}
    for name, values in {"dense": dense, "sparse": sparse}.items():
        folder = tmp_path / name
        (folder / "below").mkdir(parents=True)
        (folder / "below" / "weights").write_bytes(values.tobytes())
        found[name] = sizes(folder)
        oracle = len(gzip.compress(values.tobytes(), compresslevel=6))
        assert abs(found[name]["gzipped_bytes"] - oracle) < 0.01 * oracle
    assert found["dense"]["bytes"] == found["sparse"]["bytes"] == 1_200_000
    assert found["sparse"]["gzipped_bytes"] < 0.4 * found["dense"]["gzipped_bytes"]


@pytest.mark.parametrize(
    ("counts", "said"),
    [
        ({}, "99.89% of 872\n"),
        ({"samples": 872}, "99.89% of 872\n"),
        ({"predictions": 1024, "samples": 8}, "99.89% of 1,024 predictions in 8 samples\n"),
    ],
)
def test_decisions_are_told_with_the_samples_that_they_are_of(counts: dict[str, int], said: str) -> None:
    console = Console(width=160, record=True, file=StringIO())
    show(REPORT | {"verified": REPORT["verified"] | counts}, console)  # type: ignore[operator]
    [line] = [line for line in console.export_text().splitlines() if "equal decisions" in line]
    assert " ".join(line.split()) + "\n" == f"equal decisions {said}"


def test_the_table_names_every_number() -> None:
    console = Console(width=160, record=True, file=StringIO())
    show(REPORT, console)
    text = console.export_text()
    for words in (
        "2.0 MB (1.5 MB gzipped), 5.00 times smaller than the float teacher (10.0 MB)",
        "13 of 13 (13 MatMulIntegerToFloat)",
        "int8 for avx2, the largest is 63",
        "99.89% of 872",
        "0.9 (in torch 0.9011)",
        "4.00 ms, one thread, batch 1, 128 tokens: 2.50 times as fast as the float teacher (10.00 ms)",
    ):
        assert words in text


def test_plain_formats_say_what_became_of_the_quantization() -> None:
    console = Console(width=160, record=True, file=StringIO())
    show({**{name: value for name, value in REPORT.items() if name != "integer_matmuls"}, "to": "onnx"}, console)
    assert "16, weights rounded, stored as floats, inputs not rounded" in console.export_text()


def test_weights_that_are_multiplied_as_floats_are_no_integers_for_a_processor() -> None:
    console = Console(width=160, record=True, file=StringIO())
    show(REPORT | {"integer_products": 0, "integer_matmuls": {}, "largest_weight": 0}, console)
    text = console.export_text()
    assert "16, weights stored as integers and multiplied as floats" in text
    assert "avx2" not in text


def test_decisions_that_are_all_one_class_are_no_proof() -> None:
    console = Console(width=160, record=True, file=StringIO())
    verified = {**REPORT["verified"], "agreement": 1.0, "one_class": True}  # type: ignore[dict-item]
    show({**REPORT, "verified": verified, "verdict": ["the student predicts class 1 for every input"]}, console)
    text = console.export_text()
    assert "100.00% of 872, but all of them are one class" in text
    assert "warning: the student predicts class 1 for every input" in text


def test_layers_that_are_left_in_floats_are_named_with_the_reason() -> None:
    console = Console(width=200, record=True, file=StringIO())
    show(REPORT | {"float_products": {"a": "its output is not rounded", "b": "its inputs are not rounded"}}, console)
    text = console.export_text()
    assert "13 of 15 (13 MatMulIntegerToFloat)" in text
    assert "a: its output is not rounded; b: its inputs are not rounded" in text


def test_the_larger_batch_is_shown_beside_the_student_in_floats() -> None:
    console = Console(width=200, record=True, file=StringIO())
    show(REPORT | {MANY: {"export": 20.0, STUDENT: 50.0}}, console)
    assert "batch 32: 20.00 ms, 2.50 times as fast as the float student (50.00 ms)" in console.export_text()


def test_sizes_that_are_fixed_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    show(REPORT | {"inputs": {"input": ["batch", 5], "mask": ["batch", "length"]}})
    shown = capsys.readouterr().out
    assert "input [batch, 5]" in shown
    assert "mask" not in shown
