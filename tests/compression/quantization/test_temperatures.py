"""The promises of what is said of temperatures, for weights of few bits."""

from __future__ import annotations

from distill.compression.quantization.temperatures import too_hot
from distill.core.schedules import Linear
from distill.losses import CrossEntropy, HintonKL


def test_only_the_temperature_while_rounding_counts() -> None:
    falling, rising = Linear(8.0, 1.0, begin=0, until=10), Linear(1.0, 8.0, begin=10, until=20)
    losses = [HintonKL(falling), CrossEntropy(), HintonKL(rising)]
    assert too_hot(losses, 3, begin=10, total_steps=20) == {"model.losses.2.temperature": 8.0}
    assert too_hot(losses, 3, begin=9, total_steps=10) == {}
    assert too_hot(losses, 3, begin=5, total_steps=10) == {"model.losses.0.temperature": 4.5}


def test_the_usual_temperature_is_let_pass_and_one_above_it_is_not() -> None:
    assert too_hot([HintonKL(2.0)], 3, begin=0, total_steps=10) == {}
    assert too_hot([HintonKL(2.01)], 3, begin=0, total_steps=10) == {"model.losses.0.temperature": 2.01}
    assert too_hot([HintonKL(8.0)], 4, begin=0, total_steps=10) == {}
