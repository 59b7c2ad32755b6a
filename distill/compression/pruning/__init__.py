"""Pruning as pure functions: how sparse when, what a weight is worth, and which are kept."""

from distill.compression.pruning.criteria import Criterion, FunctionCriterion, Magnitude, Movement, Random, Wanda
from distill.compression.pruning.granularity import Granularity
from distill.compression.pruning.schedule import SparsitySchedule
from distill.compression.pruning.unit_choice import choose, exchange

__all__ = [
    "Criterion",
    "FunctionCriterion",
    "Granularity",
    "Magnitude",
    "Movement",
    "Random",
    "SparsitySchedule",
    "Wanda",
    "choose",
    "exchange",
]
