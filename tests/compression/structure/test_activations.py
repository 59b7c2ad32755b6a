"""The promises of the sums over activations, against sums written out."""

from __future__ import annotations

import torch
from torch import nn

from distill.compression.structure.activations import ActivationSums


def test_what_stands_in_padding_counts_for_nothing_also_where_it_is_not_finite() -> None:
    x = torch.tensor([[[1.0, 2.0], [3.0, -1.0]], [[0.5, 0.0], [torch.nan, torch.inf]]])
    sums, map_ = ActivationSums(), nn.Linear(2, 2)
    sums.tokens = torch.tensor([[True, True], [True, False]])
    sums.watch_input("a", map_)
    map_(x)
    assert sums.take(1)["a"].tolist() == [1 + 9 + 0.25, 4 + 1 + 0]


def test_without_known_padding_all_positions_of_training_count() -> None:
    sums, map_ = ActivationSums(), nn.Linear(2, 2)
    sums.watch_input("a", map_)
    for _ in range(2):
        map_(torch.tensor([[1.0, 2.0], [3.0, -1.0]]))
    map_.eval()(torch.ones(1, 2))
    assert sums.take(1)["a"].tolist() == [20.0, 10.0]
    assert sums.take(1) == {}
