"""What torchmetrics keeps to itself: which states of a metric add up, and a metric of states that were added.

Written against torchmetrics 1.9. ``tests/core/internals/test_torchmetrics.py`` holds what is counted on.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_sum

__all__ = ["additive_states", "value_of"]


def additive_states(metric: Metric) -> dict[str, Tensor] | None:
    """The states that a metric has now, by name, if those of several batches add up to those of all of them.

    ``None`` where they do not, as of a metric that keeps all predictions.
    """
    reductions = metric._reductions
    states = metric.metric_state
    if not states or not all(isinstance(state, Tensor) for state in states.values()):
        return None
    if not all(reductions.get(name) is dim_zero_sum for name in states):
        return None
    return {name: state for name, state in states.items() if isinstance(state, Tensor)}


def value_of(metric: Metric, states: Mapping[str, Tensor]) -> float:
    """What a metric with these states is. The metric is left with them."""
    for name, state in states.items():
        setattr(metric, name, state)
    with torch.no_grad():
        found: Tensor = type(metric).compute(metric)  # the instance's own remembers what it gave
    return float(found)
