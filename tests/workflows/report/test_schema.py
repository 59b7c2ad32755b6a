"""A report is read back as it was written, and what is no report is refused by its place."""

from __future__ import annotations

import json
import math
from dataclasses import fields, replace
from typing import Any

import pytest

from distill.workflows.report.schema import (
    Bin,
    Calibration,
    Class,
    Compared,
    Difference,
    Estimate,
    Generation,
    Latency,
    LengthBin,
    Machine,
    McNemar,
    Measured,
    Memory,
    Report,
    Samples,
    Size,
)

STUDENT = Measured(
    key="reviews/int8",
    role="compressed",
    run="reviews/int8",
    source="runs/reviews/int8/student",
    scores={"accuracy": Estimate(0.8108, 0.784, 0.8375), "f1": Estimate(0.8)},
    classes=(Class("good", 444, 450, 0.8, 0.81, 0.805), Class("never", 0, 0, None, None, None)),
    lengths=(LengthBin(2, 17, 300, {"accuracy": Estimate(0.9, 0.85, 0.95)}),),
    calibration=Calibration(0.05, 0.3, (Bin(10, 0.95, 0.9),)),
    size=Size(100, 50, 400, 200, 12_345, 128),
    latency=(Latency("torch", 1, 1, 128, 50, 6.5, 7.0, 7.5, 153.8),),
    memory=(Memory("torch", 1, 128, 1 << 20, "tensors"),),
    generation=(Generation("torch", 1, 16, 32, 40.0, 30.5),),
    compressed="50 % zero, int8",
    notes=("warmed up",),
)
REPORT = Report(
    runs=("reviews/int8",),
    monitor="accuracy",
    mode="max",
    samples=Samples("text-classification", "validation", 872, 872, 872, "abc", "data", 1000),
    machine=Machine("a processor", "vnni", "AVX512", 2, 1 << 33, "Linux", {"torch": "2.13.0"}, 0.1),
    models=(Measured("teacher", "teacher"), STUDENT),
    pairs=(
        Compared(
            "teacher",
            "reviews/int8",
            {"accuracy": Difference(-0.03, -0.05, -0.01, 0.004)},
            McNemar(40, 9, 1e-5),
            agreement=0.89,
            kept_percent=89.5,
        ),
    ),
    verdict=("5 times smaller",),
    means={"f1": "of class 'good'"},
    created="2026-11-29T22:00:00+00:00",
    seconds=12.5,
    distill="0.1",
)


def test_a_report_is_read_back_as_it_was_written() -> None:
    assert Report.from_json(REPORT.to_json()) == REPORT
    assert all(getattr(STUDENT, one.name) not in ((), {}, "", None) for one in fields(STUDENT) if one.name != "of")
    assert REPORT.model("reviews/int8") is STUDENT
    assert REPORT.with_role("teacher") == [REPORT.models[0]]


def test_a_number_that_is_not_finite_is_null_and_no_broken_json() -> None:
    odd = replace(REPORT, models=(replace(STUDENT, scores={"accuracy": Estimate(math.nan, -math.inf, None)}),))
    text = odd.to_json()
    json.loads(text, parse_constant=pytest.fail)
    [model] = Report.from_json(text).models
    assert math.isnan(model.scores["accuracy"].value)
    assert model.scores["accuracy"].low is None


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda found: found["models"][1]["scores"]["accuracy"].update(value="high"), "models.1.scores.accuracy.value"),
        (lambda found: found["models"][0].update(role="king"), "models.0.role"),
        (lambda found: found["samples"].pop("scored"), "report.samples"),
        (lambda found: found.update(models={}), "report.models"),
        (lambda found: found["machine"].update(cores=True), "machine.cores"),
        (lambda found: found.update(version=99), "format 99"),
    ],
)
def test_what_is_no_report_is_refused_by_its_place(change: Any, says: str) -> None:
    found = json.loads(REPORT.to_json())
    change(found)
    with pytest.raises(ValueError, match=says):
        Report.from_json(json.dumps(found))
