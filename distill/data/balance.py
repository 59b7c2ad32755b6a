"""How the labels of a split are spread: the share of each class, or which numbers there are."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from distill.core.utils.words import amount
from distill.data.features import Ragged, Samples
from distill.data.labels import Labels

__all__ = ["balance", "class_counts", "only_number"]

_LISTED = 6
"""Of more classes only the most frequent are listed, and the rarest."""

_MOST = 4


def balance(labels: Labels, samples: Samples | None) -> str:
    """In words, as ``2 classes: negative 48 %, positive 52 %`` or ``numbers from 0 to 5, 2.7 on average``.

    Args:
        labels: How labels became ids or numbers.
        samples: The split's, tokenized; without them nothing is counted.
    """
    names = labels.names
    if labels.says:
        return labels.says
    if names is None:
        return "numbers" if samples is None else _numbers(samples)
    head = amount(len(names), "class")
    counts = None if samples is None else class_counts(labels, samples)
    if counts is None or not counts.any():
        return f"{head}: {', '.join(names[:_LISTED])}{', ...' if len(names) > _LISTED else ''}"
    # Of all samples (or words) that have a label; where each has any number of classes they add up to another sum.
    total = _labelled(samples) if labels.form == "set" else counts.sum()
    order = list(range(len(names)))
    if len(names) > _LISTED:
        order = sorted(order, key=lambda i: -counts[i])
        order = [*order[:_MOST], next(i for i in reversed(order) if counts[i])]
    parts = [f"{names[i]} {_percent(counts[i] / total)}" for i in order]
    if len(names) > _LISTED:
        parts[-1] = f"... {parts[-1]}"
    absent = int((counts == 0).sum())
    return f"{head}: {', '.join(parts)}" + (f"; {absent} of them in no row" if absent else "")


def class_counts(labels: Labels, samples: Samples) -> NDArray[np.int64] | None:
    """How many samples (or words) there are of each class, ``[C]``; ``None`` where labels are numbers."""
    values, count = _values(samples), len(labels.names or ())
    if labels.names is None or values is None:
        return None
    if labels.form == "set":
        sums: NDArray[np.int64] = np.nan_to_num(values.reshape(-1, count)).sum(0).round().astype(np.int64)
        return sums
    return np.bincount(values[values >= 0].astype(np.int64), minlength=count)


def only_number(labels: Labels, samples: Samples) -> float | None:
    """The number that all labels are, where labels are numbers and are all the same."""
    values = _values(samples)
    if labels.form != "number" or values is None:
        return None
    known = np.unique(values[~np.isnan(values)])
    return float(known[0]) if len(known) == 1 else None


def _values(samples: Samples) -> NDArray[np.float32] | NDArray[np.int32] | None:
    column = samples.features.get("label", samples.features.get("labels"))
    return column.values if isinstance(column, Ragged) else column


def _labelled(samples: Samples | None) -> int:
    """Samples that have a set of classes, be it an empty one."""
    column = samples.features["label"] if samples is not None else ()
    return sum(len(row) > 0 and not np.isnan(row[0]) for row in (column[i] for i in range(len(column))))


def _numbers(samples: Samples) -> str:
    values = _values(samples)
    known = values[~np.isnan(values)] if values is not None else np.empty(0)
    if not len(known):
        return "numbers"
    return f"numbers from {known.min():.4g} to {known.max():.4g}, {known.mean():.4g} on average"


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %" if share >= 0.01 else f"{100 * share:.2g} %"
