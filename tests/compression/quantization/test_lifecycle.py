"""The promises of ranges that are followed in a run and found again by the next."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

from distill.compression.quantization.layers import quantize_layer
from distill.compression.quantization.lifecycle import find_ranged, follow, freeze
from distill.compression.quantization.scheme import ActivationScheme, LayerScheme, WeightScheme


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


@pytest.mark.parametrize("granularity", ["tensor", "channel"])
@pytest.mark.parametrize("seed", range(4))
def test_a_shared_weight_is_laid_on_one_grid_once_where_zero_is_not_its_middle(seed: int, granularity: Any) -> None:
    # The grid of weights that lie on an asymmetric one is another: its ends were rounded.
    scheme = LayerScheme(weights=WeightScheme(bits=3, granularity=granularity, symmetric=False))
    weight = torch.randn(4, 6, generator=torch.Generator().manual_seed(seed)) + 0.4
    one, other, alone = (nn.Linear(6, 4) for _ in range(3))
    with torch.no_grad():
        one.weight.copy_(weight)
        alone.weight.copy_(weight)
    other.weight = one.weight
    shared = [quantize_layer(module, scheme) for module in (one, other)]
    freeze(shared)
    freeze([quantize_layer(alone, scheme)])
    for module in shared:
        assert torch.equal(module.weight, alone.weight)
        assert torch.equal(module.weight_scale, alone.weight_scale)
        assert torch.equal(module.weight_zero_point, alone.weight_zero_point)
        zero = module.weight_zero_point.view(-1, 1) if granularity == "channel" else module.weight_zero_point
        scale = module.weight_scale.view(-1, 1) if granularity == "channel" else module.weight_scale
        assert torch.equal((module.integers() - zero) * scale, module.weight)
