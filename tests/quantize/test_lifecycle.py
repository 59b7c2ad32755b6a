"""The promises of ranges that are followed in a run and found again by the next."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

from distill.quantize.layers import quantize_layer
from distill.quantize.lifecycle import find_ranged, follow
from distill.quantize.scheme import ActivationScheme, LayerScheme, WeightScheme


@pytest.mark.parametrize("wrong", [math.inf, -math.inf, math.nan])
@pytest.mark.parametrize("observer", ["minmax", "moving_average"])
def test_a_resumed_run_knows_the_ranges_that_the_run_knew(observer: Any, wrong: float) -> None:
    inputs = ActivationScheme(observer=observer, momentum=1.0)
    layer = quantize_layer(nn.Linear(2, 2), LayerScheme(weights=WeightScheme(), activations=inputs)).train()
    layer.observing = True
    known = []
    for values in (None, [wrong, wrong], [-1.0, 2.0], [0.5, wrong], None):
        if values is not None:
            layer(torch.tensor([values]))
        follow([layer])
        known.append(layer.ranged)
        find_ranged([layer])
        assert layer.ranged == known[-1]
    assert known == [False, False, True, True, True]
    assert layer.input_range.isfinite().all()
