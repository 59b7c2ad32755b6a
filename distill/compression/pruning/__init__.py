"""Pruning as pure functions: how sparse when, what a weight is worth, and which are kept."""

from distill.compression.pruning.criteria import Criterion, FunctionCriterion, Magnitude, Movement, Wanda
from distill.compression.pruning.granularity import Granularity
from distill.compression.pruning.masks import choose, exchange
from distill.compression.pruning.schedule import SparsitySchedule

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
