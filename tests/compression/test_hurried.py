"""What is reported of compressions that had too few steps."""

from __future__ import annotations

from distill.callbacks import GradualMagnitudePruning, QuantizationAwareTraining
from distill.compression.base import hurried

CALLBACKS = [GradualMagnitudePruning(final_sparsity=0.8), QuantizationAwareTraining(observe=0.4, begin=0.5)]


def test_a_long_run_is_in_no_hurry() -> None:
    assert hurried(CALLBACKS, 1000) == []


def test_the_steps_are_those_that_the_saved_student_had() -> None:
    # The best checkpoint of 1,000 steps is the one at which rounding begins.
    (found,) = hurried(CALLBACKS, 1000, taken=500)
    assert found == {"what": "8 bits", "steps": 0, "needed": 50, "saved": 500, "of": 1000}
    assert [item["steps"] for item in hurried(CALLBACKS, 94)] == [94, 47]
