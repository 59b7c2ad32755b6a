"""Rules on figures: what is read of them, and which models keep them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from distill.core.utils.errors import UserError
from distill.workflows.report.rule import broken, check, parse
from distill.workflows.report.schema import (
    Calibration,
    Compared,
    Estimate,
    Latency,
    Machine,
    Measured,
    Report,
    Samples,
    Size,
)
from distill.workflows.report.verdict import verdict


def timed(runtime: str, ms: float, length: int = 128) -> Latency:
    return Latency(runtime, 1, 1, length, 100, ms, ms, ms, 1000 / ms)


def model(key: str, role: Any, accuracy: float, size: int, *latency: Latency, **more: Any) -> Measured:
    return Measured(
        key, role, run="r/1", scores={"accuracy": Estimate(accuracy)}, size=Size(bytes=size), latency=latency, **more
    )


REPORT = Report(
    runs=("r/1",),
    monitor="accuracy",
    mode="max",
    samples=Samples("text-classification", "validation", 872, 872, 872, "abc"),
    machine=Machine("a processor", "vnni", "AVX512", 2, None, "Linux", {}),
    models=(
        model("teacher", "teacher", 0.9, 100, timed("torch", 40.0), timed("onnxruntime", 20.0)),
        model("student", "compressed", 0.88, 50, timed("torch", 30.0), calibration=Calibration(0.02, 0.1)),
        model("in float", "float", 0.88, 50, timed("onnxruntime", 10.0), of="student"),
        model("onnx-int8", "exported", 0.87, 20, timed("onnxruntime", 5.0), runtime="onnxruntime", of="student"),
    ),
    pairs=(Compared("teacher", "onnx-int8", kept_percent=95.0),),
)


@pytest.mark.parametrize(
    ("text", "value", "bound"),
    [
        ("accuracy >= 0.99 * teacher", "0.87", "0.99 * teacher (0.9) = 0.891"),
        ("accuracy >= teacher * .99", "0.87", "= 0.891"),
        ("accuracy > 0.87", "0.87", "> 0.87"),
        ("bytes <= 0.1*teacher", "20", "= 10"),
        ("bytes < 2e1", "20", "< 20"),
        ("latency <= 0.2 * teacher", "5", "(20) = 4"),  # in the export's own runtime
        ("latency <= 0.4 * float", "5", "(10) = 4"),
        ("kept >= 96", "95", ">= 96"),
        ("ece <= 0.01", "not known", "<= 0.01"),
        ("throughput >= 201", "200", ">= 201"),
    ],
)
def test_what_is_shipped_is_judged_and_the_figure_is_said(text: str, value: str, bound: str) -> None:
    rule = parse(text)
    check([rule], ["accuracy"], [one.role for one in REPORT.models])
    [line] = broken(rule, REPORT)
    assert line.startswith(f"{rule.figure} of onnx-int8 is {value}, and must be {rule.sign}")
    assert line.endswith(bound)


@pytest.mark.parametrize(
    "text",
    [
        "accuracy >= 0.87",
        "accuracy >= 0.96 * teacher",
        "bytes <= 20",
        "latency <= 0.25 * teacher",
        "latency <= 0.5 * float",
        "kept > 94.9",
        "bytes < compressed",
    ],
)
def test_a_rule_that_holds_says_nothing(text: str) -> None:
    assert broken(parse(text), REPORT) == []


def test_a_student_that_was_not_exported_is_judged_itself() -> None:
    report = replace(REPORT, models=REPORT.models[:2])
    assert broken(parse("accuracy >= 0.88"), report) == []
    [line] = broken(parse("ece <= 0.01"), report)
    assert line == "ece of student is 0.02, and must be <= 0.01"


@pytest.mark.parametrize(
    "text",
    ["", "accuracy", "accuracy = 1", "accuracy >= ", "0.9 <= accuracy", "accuracy >= 1 * 2", "accuracy >= teacher * ",
     "accuracy >= 1 or True", "__import__('os') >= 1", "accuracy >= (1)", "accuracy >= 0.9; bytes < 1"],
)  # fmt: skip
def test_what_is_no_rule_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="is no rule"):
        parse(text)


def test_a_verdict_says_what_integers_gained_of_what_float_had() -> None:
    [gained, integers, *_] = verdict(REPORT)
    assert gained.startswith("onnx-int8 is 5.00 times smaller and 4.00 times as fast")
    assert integers == (
        "its integers make it 2.00 times as fast as the same student in float: "
        "in float it is 2.00 times as fast as the teacher"
    )


def test_a_verdict_says_where_a_compression_does_not_pay() -> None:
    slow = replace(REPORT.models[3], latency=(timed("onnxruntime", 11.0),))
    sparse = replace(slow, size=Size(100, 50, 20, 11))
    lines = verdict(replace(REPORT, models=(*REPORT.models[:3], sparse)))
    assert any("slower in onnxruntime than the same student in float (11.00 ms against 10.00 ms)" in x for x in lines)
    [zeros] = [line for line in lines if "zero" in line]
    assert zeros.startswith("50% of the weights of onnx-int8 are zero")
    assert "makes nothing faster" in zeros
    assert "55% of the bytes" in zeros
