"""The statistics of a report, against brute force and other libraries."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy.stats import binomtest
from sklearn.metrics import precision_recall_fscore_support

from distill.workflows.report.statistics import (
    by_class,
    calibration,
    difference,
    estimate,
    length_bins,
    mcnemar,
    resamples,
)

SEEDS = range(3)


def test_every_draw_takes_as_many_samples_as_there_are_and_is_a_function_of_its_seed() -> None:
    drawn = np.concatenate(list(resamples(50, 400, 7)))
    assert drawn.shape == (400, 50)
    assert (drawn.sum(1) == 50).all()
    assert (drawn == np.concatenate(list(resamples(50, 400, 7)))).all()
    assert (drawn != np.concatenate(list(resamples(50, 400, 8)))).any()
    # Binomial(50, 1 / 50) of each sample: mean 1 and variance 1 - 1 / 50.
    assert drawn.var() == pytest.approx(1 - 1 / 50, rel=0.05)


def test_blocks_of_draws_are_those_of_one_block(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = np.concatenate(list(resamples(40, 30, 0)))
    monkeypatch.setattr("distill.workflows.report.statistics._AT_ONCE", 100)
    parts = list(resamples(40, 30, 0))
    assert [len(part) for part in parts] == [2] * 15
    assert (np.concatenate(parts) == whole).all()


def test_the_interval_of_a_proportion_is_its_standard_error_twice_to_each_side() -> None:
    right = np.random.default_rng(0).random(2000) < 0.8
    draws = np.concatenate(list(resamples(2000, 1000, 0))) @ right / 2000
    found = estimate(float(right.mean()), draws)
    error = np.sqrt(right.mean() * (1 - right.mean()) / 2000)
    assert found.low == pytest.approx(right.mean() - 1.96 * error, abs=0.2 * error)
    assert found.high == pytest.approx(right.mean() + 1.96 * error, abs=0.2 * error)
    assert estimate(0.5, None).low is None
    assert estimate(0.5, np.full(10, np.nan)).high is None


def test_a_difference_is_paired_and_has_the_p_of_its_draws() -> None:
    draws = np.arange(1.0, 100.0)
    better = difference(0.0, 0.5, (draws, draws + 0.5))
    assert (better.value, better.low, better.high) == (0.5, 0.5, 0.5)
    assert better.p == pytest.approx(2 / 100)  # none of 99 draws is at or below 0
    split = difference(0.0, 0.1, (np.zeros(99), np.where(np.arange(99) < 9, -1.0, 1.0)))
    assert split.p == pytest.approx(2 * 10 / 100)
    assert difference(0.3, 0.3, (draws, draws)).p == 1
    assert difference(0.3, 0.2, None).p is None


@pytest.mark.parametrize(("b", "c"), [(0, 0), (1, 0), (3, 9), (40, 9), (25, 25), (300, 420)])
def test_mcnemar_is_the_exact_binomial_test(b: int, c: int) -> None:
    first = np.array([True] * b + [False] * c + [True] * 7 + [False] * 5)
    second = np.array([False] * b + [True] * c + [True] * 7 + [False] * 5)
    found = mcnemar(first, second)
    assert (found.first, found.second) == (b, c)
    assert found.p == pytest.approx(binomtest(b, b + c).pvalue if b + c else 1.0, rel=1e-9)


@pytest.mark.parametrize("seed", SEEDS)
def test_calibration_is_what_its_definition_gives(seed: int) -> None:
    generator = np.random.default_rng(seed)
    logits = generator.normal(size=(300, 4)) * 3
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    labels = generator.integers(0, 4, 300)
    found = calibration(p, labels)
    one_hot = np.eye(4)[labels]
    assert found.brier == pytest.approx(np.mean([((a - b) ** 2).sum() for a, b in zip(p, one_hot, strict=True)]))
    total = 0.0
    for k in range(15):
        inside = [i for i in range(300) if k / 15 < p[i].max() <= (k + 1) / 15]
        if inside:
            accuracy = np.mean([p[i].argmax() == labels[i] for i in inside])
            total += len(inside) / 300 * abs(accuracy - np.mean([p[i].max() for i in inside]))
    assert found.ece == pytest.approx(total)
    assert sum(one.count for one in found.bins) == 300


def test_a_yes_or_no_is_calibrated_as_two_classes_are() -> None:
    p, labels = np.array([0.9, 0.2, 0.6, 0.3]), np.array([1, 0, 0, 1])
    both = calibration(np.stack([1 - p, p], 1), labels)
    found = calibration(p, labels)
    assert found.ece == pytest.approx(both.ece)
    assert found.brier == pytest.approx(both.brier / 2)  # one outcome is counted, not two


@pytest.mark.parametrize("seed", SEEDS)
def test_classes_are_scored_as_scikit_learn_scores_them(seed: int) -> None:
    generator = np.random.default_rng(seed)
    labels, decisions = generator.integers(0, 4, (2, 60))
    names = ["a", "b", "c", "d", "never"]
    expected = precision_recall_fscore_support(labels, decisions, labels=range(4), zero_division=0)
    found = {one.name: one for one in by_class(labels, decisions, names)}
    assert set(found) == set("abcd")
    assert list(found) == sorted("abcd", key=lambda name: -found[name].support)
    for place, name in enumerate("abcd"):
        one = found[name]
        assert [one.precision, one.recall, one.f1, one.support] == pytest.approx([part[place] for part in expected])
    sets = generator.random((2, 40, 3)) < 0.4
    expected = precision_recall_fscore_support(sets[0], sets[1], zero_division=0)
    for one in by_class(sets[0].astype(np.int64), sets[1].astype(np.int64), ["x", "y", "z"]):
        assert one.recall == pytest.approx(expected[1]["xyz".index(one.name)])


def test_a_class_that_is_never_predicted_has_no_precision() -> None:
    [one, other] = by_class(np.array([0, 0, 1]), np.array([0, 0, 0]), ["a", "b"])
    assert (one.name, one.precision) == ("a", pytest.approx(2 / 3))
    assert (other.name, other.precision, other.recall, other.f1) == ("b", None, 0.0, 0.0)


@pytest.mark.parametrize("seed", SEEDS)
def test_length_bins_part_all_samples_by_their_length(seed: int) -> None:
    lengths = np.random.default_rng(seed).geometric(0.1, 200)
    found = length_bins(lengths)
    assert 2 <= len(found) <= 4
    assert (np.sum([chosen for *_, chosen in found], 0) == 1).all()
    for low, high, chosen in found:
        assert (lengths[chosen].min(), lengths[chosen].max()) == (low, high)
    assert all(one[1] < other[0] for one, other in itertools.pairwise(found))
    assert min(chosen.sum() for *_, chosen in found) > 30
    assert length_bins(np.full(9, 5)) == []
