"""Pruning as pure functions: how sparse when, what a weight is worth, and which are kept."""

from distill.prune.criteria import Criterion, FunctionCriterion, Magnitude, Movement, Wanda
from distill.prune.granularity import Granularity
from distill.prune.masks import choose, exchange
from distill.prune.schedule import SparsitySchedule

__all__ = [
    "Criterion",
    "FunctionCriterion",
    "Granularity",
    "Magnitude",
    "Movement",
    "SparsitySchedule",
    "Wanda",
    "choose",
    "exchange",
]
