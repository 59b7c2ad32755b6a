"""What a run says of itself before its first step is true."""

from __future__ import annotations

import pytest
import torch

from distill.workflows import opening
from distill.workflows.opening import samples_a_step


def steps(sizes: list[int], accumulate: int) -> list[int]:
    """The samples of every step of an epoch of these batches, taken one after the other."""
    return [sum(sizes[at : at + accumulate]) for at in range(0, len(sizes), accumulate)]


@pytest.mark.parametrize("accumulate", [1, 2, 3, 8, 30])
@pytest.mark.parametrize("sizes", [[8], [8] * 6, [8] * 7, [8] * 6 + [3], [5], [8, 8, 9]])
def test_the_samples_of_a_step_are_those_that_its_batches_have(sizes: list[int], accumulate: int) -> None:
    fewest, most = samples_a_step(sizes, len(sizes), accumulate)
    orders = [steps(sizes[at:] + sizes[:at], accumulate) for at in range(len(sizes))]  # batches come in any order
    assert fewest == min(map(min, orders))
    assert most == max(map(max, orders))


@pytest.mark.parametrize(
    ("batches", "accumulate", "each"),
    [(1, 8, (8, 8)), (3, 8, (24, 24)), (4, 2, (16, 16)), (5, 2, (8, 16)), (float("inf"), 4, (32, 32))],
)
def test_an_epoch_cut_short_has_no_more_samples_a_step_than_batches(
    batches: float, accumulate: int, each: tuple[int, int]
) -> None:
    assert samples_a_step([8] * 20, batches, accumulate) == each


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true", "16-mixed", "16-true"])
def test_half_precision_that_a_processor_emulates_is_said(precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    half = torch.bfloat16 if "bf" in precision else torch.float16
    monkeypatch.setattr(opening, "multiplies_in", lambda dtype: dtype != half)
    assert "emulated" in opening._emulated(precision)
    monkeypatch.setattr(opening, "multiplies_in", lambda dtype: True)
    assert opening._emulated(precision) == ""


@pytest.mark.parametrize("precision", ["32-true", "64-true"])
def test_full_precision_is_never_called_emulated(precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    halves = (torch.bfloat16, torch.float16)
    monkeypatch.setattr(opening, "multiplies_in", lambda dtype: dtype not in halves)
    assert opening._emulated(precision) == ""
