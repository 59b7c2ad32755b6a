"""How sure a score is, and a difference: pure functions of numbers, whatever model they are of."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from distill.workflows.report.schema import Bin, Calibration, Class, Difference, Estimate, McNemar

__all__ = [
    "LEVEL",
    "Numbers",
    "by_class",
    "calibration",
    "difference",
    "estimate",
    "length_bins",
    "mcnemar",
    "resamples",
]

LEVEL = 0.95
"""Of the intervals."""

_AT_ONCE = 2**22  # counts of draws that are there together

Numbers = NDArray[np.float64]


def resamples(samples: int, draws: int, seed: int) -> Iterator[NDArray[np.int64]]:
    """How often each sample is drawn, as ``samples`` of them are drawn with replacement, ``draws`` times.

    A function of its arguments alone: two models on the same samples are drawn alike.

    Yields:
        Blocks ``[b, samples]`` of the ``draws`` rows; each row adds up to ``samples``.
    """
    generator = np.random.default_rng(seed)
    block = max(1, _AT_ONCE // max(samples, 1))
    for start in range(0, draws, block):
        rows = min(block, draws - start)
        drawn = generator.integers(0, samples, size=(rows, samples))
        drawn += np.arange(rows)[:, None] * samples
        yield np.bincount(drawn.ravel(), minlength=rows * samples).reshape(rows, samples)


def estimate(value: float, draws: Numbers | None) -> Estimate:
    """A score with its interval, the percentiles of what the draws score (Efron: Bootstrap methods, 1979).

    Args:
        value: On the samples that there are.
        draws: On those of each draw, ``[draws]``; those that are not finite are left out. ``None`` without draws.
    """
    finite = np.zeros(0) if draws is None else draws[np.isfinite(draws)]
    if len(finite) < 2:
        return Estimate(value)
    low, high = np.quantile(finite, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Estimate(value, float(low), float(high))


def difference(first: float, second: float, draws: tuple[Numbers, Numbers] | None) -> Difference:
    """A score of the second model less that of the first, by a paired bootstrap.

    p = 2 min(#{d <= 0} + 1, #{d >= 0} + 1) / (draws + 1), at most 1, over the differences d of the draws. Models that
    score the same in every draw have p = 1.

    Args:
        first: Of one model.
        second: Of the other.
        draws: Of both, on the same draws of the samples, ``[draws]`` each; ``None`` without.

    Reference:
        Davison, Hinkley: Bootstrap Methods and their Application, 1997, section 4.4 (the + 1).
    """
    value = second - first
    apart = np.zeros(0) if draws is None else draws[1] - draws[0]
    apart = apart[np.isfinite(apart)]
    if len(apart) < 2:
        return Difference(value)
    low, high = np.quantile(apart, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    smaller = min(int((apart <= 0).sum()), int((apart >= 0).sum()))
    return Difference(value, float(low), float(high), min(1.0, 2 * (smaller + 1) / (len(apart) + 1)))


def mcnemar(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> McNemar:
    """The exact, two-sided test of McNemar.

    p = min(1, 2 sum_{k <= min(b, c)} C(b + c, k) / 2^(b + c)), of the b predictions that only the first model has
    right and the c that only the second has.

    Args:
        first: Whether each prediction of one model is right, ``[P]``.
        second: Those of the other, likewise.

    Reference:
        McNemar: Note on the sampling error of the difference between correlated proportions, 1947.
    """
    only_first, only_second = int((first & ~second).sum()), int((second & ~first).sum())
    n, m = only_first + only_second, min(only_first, only_second)
    logs = [math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1) for k in range(m + 1)]
    most = max(logs)
    p = 2 * math.exp(most - n * math.log(2)) * math.fsum(math.exp(log - most) for log in logs)
    return McNemar(only_first, only_second, min(1.0, p))


def calibration(probabilities: Numbers, labels: NDArray[np.int64], bins: int = 15) -> Calibration:
    """How far confidence is accuracy.

    Args:
        probabilities: Of classes, ``[P, C]``, rows add up to 1; of outcomes that are a yes or no, ``[P]``.
        labels: The class of each, or 0 and 1, ``[P]``.
        bins: Of equal width; a confidence c falls into ((k - 1) / bins, k / bins].

    Reference:
        Guo et al.: On calibration of modern neural networks, ICML 2017; Brier: Verification of forecasts, 1950.
    """
    if probabilities.ndim == 1:
        brier = float(((probabilities - labels) ** 2).mean())
        confidence = np.maximum(probabilities, 1 - probabilities)
        right = (probabilities > 0.5) == (labels == 1)
    else:
        at = np.arange(len(labels))
        picked = probabilities[at, labels]
        brier = float(((probabilities**2).sum(1) - 2 * picked + 1).mean())
        taken = probabilities.argmax(1)
        confidence, right = probabilities[at, taken], taken == labels
    place = np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)
    counts = np.bincount(place, minlength=bins)
    sums = np.bincount(place, confidence, bins), np.bincount(place, right.astype(np.float64), bins)
    found = tuple(Bin(int(n), float(sums[0][k] / n), float(sums[1][k] / n)) for k, n in enumerate(counts.tolist()) if n)
    ece = sum(one.count * abs(one.accuracy - one.confidence) for one in found) / len(labels)
    return Calibration(float(ece), brier, found)


def by_class(labels: NDArray[np.int64], decisions: NDArray[np.int64], names: Sequence[str]) -> tuple[Class, ...]:
    """Precision, recall and F1 of each class that occurs, the most frequent first.

    Args:
        labels: Class of each prediction ``[P]``; of samples with any number of classes 0 and 1, ``[P, C]``.
        decisions: Of the model, likewise.
        names: Of the C classes.
    """
    count = len(names)
    if labels.ndim == 2:
        support, predicted, right = labels.sum(0), decisions.sum(0), (labels & decisions).sum(0)
    else:
        support, predicted = np.bincount(labels, minlength=count), np.bincount(decisions, minlength=count)
        right = np.bincount(labels[labels == decisions], minlength=count)
    order = sorted(range(count), key=lambda one: (-int(support[one]), one))
    return tuple(
        _class(names[one], int(support[one]), int(predicted[one]), int(right[one]))
        for one in order
        if support[one] or predicted[one]
    )


def _class(name: str, support: int, predicted: int, right: int) -> Class:
    return Class(
        name,
        support,
        predicted,
        right / predicted if predicted else None,
        right / support if support else None,
        2 * right / (support + predicted),
    )


def length_bins(lengths: NDArray[np.int64], bins: int = 4) -> list[tuple[int, int, NDArray[np.bool_]]]:
    """Samples of like lengths, as equally many in each of the ``bins`` as lengths allow.

    Samples of one length are never parted.

    Args:
        lengths: ``[N]``.
        bins: At most so many.

    Returns:
        The smallest and the largest length of each, and which samples it has; none where all are of one length.
    """
    if not len(lengths) or lengths.min() == lengths.max():
        return []
    edges = np.unique(np.quantile(lengths, np.arange(1, bins) / bins, method="inverted_cdf"))
    place = np.searchsorted(edges, lengths, side="left")
    found = []
    for one in np.unique(place):
        chosen = place == one
        found.append((int(lengths[chosen].min()), int(lengths[chosen].max()), chosen))
    return found
