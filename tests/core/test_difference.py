"""Standard errors of differences, against draws."""

from __future__ import annotations

import numpy as np
import pytest

from distill.core.difference import error_apart, error_paired, within


def test_of_independent_accuracies_it_is_what_draws_spread_by() -> None:
    draw = np.random.default_rng(0)
    apart = draw.binomial(200, 0.8, 40_000) / 200 - draw.binomial(200, 0.6, 40_000) / 200
    one = (0.8 * 0.2 / 200) ** 0.5
    found = error_apart(one, 0.8, 0.8, 0.6, metric="accuracy", predictions=200)
    assert found == pytest.approx(apart.std(), rel=0.02)
    # Tokens of a text hang together: all is as much wider as what was measured is.
    assert error_apart(3 * one, 0.8, 0.8, 0.6, metric="accuracy", predictions=200) == pytest.approx(3 * found)
    assert error_apart(0.3, 5.0, 5.0, 7.0, metric="perplexity", predictions=200) == pytest.approx(0.3 * 2**0.5)
    assert error_apart(0.0, 0.5, 0.5, 0.4, metric="f1", predictions=200) == 0


def test_of_paired_answers_it_is_what_draws_spread_by() -> None:
    draw = np.random.default_rng(1)
    either = draw.random((20_000, 200)) < 0.1  # one of the two is right there, whichever: they are equally good
    apart = (either * np.where(draw.random((20_000, 200)) < 0.5, 1, -1)).mean(1)
    assert error_paired((0.8 * 0.2 / 200) ** 0.5, 0.8, 0.9, 200) == pytest.approx(apart.std(), rel=0.02)
    assert error_paired(0.0, 1.0, 1.0, 200) == 0


def test_one_sample_of_many_is_within_its_error() -> None:
    for count in range(2, 2000):
        assert within(1 - (count - 1) / count, error_paired(0.0, 1.0, (count - 1) / count, count))
    assert not within(0.2, 0.19)
    assert within(-0.2, 0.2)
