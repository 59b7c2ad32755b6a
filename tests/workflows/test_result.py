"""What the final table says of a compressed student, so that its figures cannot be taken for others."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from distill.tasks import make_task
from distill.workflows.result import show_verdict


def shown(**more: Any) -> str:
    result = {"parameters": {"student": 1000}, "scores": {"student": {}}, **more}
    out = io.StringIO()
    show_verdict(result, Console(file=out, width=200))
    return out.getvalue()


def coverage(**more: Any) -> dict[str, Any]:
    return {"weights": 1000, "compressed": 300, "by": {"sparsity": 300}, "left": {"embeddings": 700}, **more}


def test_zeros_are_told_of_the_pruned_weights_and_of_all() -> None:
    found = shown(compressed="50 % zero", coverage=coverage(sparsity=0.15))
    assert "zero: 50 % of the pruned weights, 15 % of all\n" in found


@pytest.mark.parametrize(
    ("megabytes", "more", "said"),
    [
        (0.0042, {"sparsity": 0.15}, "smaller: distill quantize RUN"),
        (0.0042, {"sparsity": 0.15, "bits": 8.5}, "smaller: distill export RUN --to onnx-int8"),
        (0.0012, {"bits": 8.5}, ""),  # stored as integers
        (0.0042, {}, ""),  # smaller by its structure alone
    ],
)
def test_a_folder_that_is_no_smaller_says_why_and_what_is(megabytes: float, more: dict[str, float], said: str) -> None:
    found = shown(compressed="x", coverage=coverage(**more), megabytes={"student": megabytes})
    assert ("MB: student/ keeps every weight as a float of 32 bits" in found) == bool(said)
    assert said in found


@pytest.mark.parametrize(
    ("task", "labels", "said"),
    [
        ("text-classification", ["a", "b", "c"], "f1: macro, the mean over the classes\n"),
        ("text-classification", ["a", "b"], "f1: of class 'b'\n"),
        ("token-classification", ["O", "B-X"], "f1: micro, of the single tags but O\n"),
    ],
)
def test_f1_says_of_what_it_is(task: str, labels: list[str], said: str) -> None:
    assert said in shown(means=make_task(task, labels).means())
