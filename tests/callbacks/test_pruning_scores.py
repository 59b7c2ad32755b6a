"""No score is not score 0: what is frozen, was not used, or has a gradient that is no number."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from distill.callbacks import GradualMagnitudePruning, StructuredPruning
from distill.compression.pruning import Movement
from distill.core.utils.errors import UserError

Make = Callable[..., Any]


def frozen(classifier: Make, *layers: int) -> Any:
    student = classifier("bert")
    for layer in layers:
        student.bert.encoder.layer[layer].requires_grad_(False)
    return student


def test_movement_leaves_frozen_layers_and_says_so(
    classifier: Make, pair: Make, fit: Make, caplog: pytest.LogCaptureFixture
) -> None:
    student = frozen(classifier, 0)
    pruning = GradualMagnitudePruning(0.5, criterion="movement", begin=2, end=5)
    fit(pair(student), pruning)
    assert not [name for name in pruning.masked(student) if "layer.0." in name]
    assert "not pruned, for Movement reads a gradient, and they have none" in caplog.text
    assert all(bool((p != 0).all()) for p in student.bert.encoder.layer[0].parameters() if p.dim() == 2)
    kept = torch.cat([layer.mask.flatten() for layer in pruning._layers])
    assert int((~kept).sum()) == len(kept) / 2


def test_movement_is_refused_where_all_is_frozen(classifier: Make) -> None:
    student = frozen(classifier, 0, 1, 2)
    student.bert.pooler.requires_grad_(False)
    with pytest.raises(UserError, match=r"criterion = 'movement': all layers to prune are without a gradient"):
        GradualMagnitudePruning(0.5, criterion="movement").prepare(student)


def test_a_weight_that_never_had_a_gradient_has_no_score() -> None:
    module, movement = nn.Embedding(4, 3), Movement()
    movement.prepare(module, "table")
    for rows in ([0, 1], [1, 3]):
        module.zero_grad()
        module(torch.tensor(rows)).square().sum().backward()  # type: ignore[no-untyped-call]
        movement.learn(module)
    assert movement.scored(module).tolist() == [[row != 2] * 3 for row in range(4)]


@pytest.mark.parametrize("value", [float("inf"), float("-inf"), float("nan")])
def test_a_gradient_that_is_no_number_brings_no_weight_back(value: float) -> None:
    student = nn.Sequential(nn.Linear(8, 4, bias=False), nn.Linear(4, 2))
    pruning = GradualMagnitudePruning(0.5, regrow=0.5)
    pruning.prepare(student)
    masks: Any = pruning._masks
    masks.update(0.5, {}, 0.0)
    weight, gone = student[0].weight, ~masks.layers[0].mask.clone()
    weight.grad = torch.where(gone, torch.full_like(weight, value), torch.ones_like(weight))
    first = gone.nonzero()[0]
    weight.grad[first[0], first[1]] = 1e-6
    masks.update(0.5, masks.gradients(), 0.5)
    now = ~masks.layers[0].mask
    assert int(now.sum()) == int(gone.sum()) == 16
    assert (now | ~gone)[gone].sum() >= 15  # that of a finite gradient may come back, and no other
    weight.grad = torch.full_like(weight, value)
    masks.update(0.5, masks.gradients(), 0.5)
    assert torch.equal(now, ~masks.layers[0].mask)


@pytest.mark.parametrize("scope", ["layer", "global"])
def test_taylor_ranks_the_units_of_a_frozen_layer_by_magnitude(
    scope: Any, classifier: Make, pair: Make, fit: Make, caplog: pytest.LogCaptureFixture
) -> None:
    student = frozen(classifier, 0)
    layer = student.bert.encoder.layer[0]
    attention = layer.attention
    parts = [p for m in (attention.self.query, attention.self.key, attention.self.value) for p in (m.weight, m.bias)]
    squares = sum(p.detach().square().reshape(4, -1).sum(1) for p in parts)
    squares = squares + attention.output.dense.weight.detach().square().view(16, 4, 4).sum((0, 2))
    least = squares.argsort().tolist()  # type: ignore[union-attr]
    fit(pair(student), StructuredPruning(heads=0.5, criterion="taylor", scope=scope, begin=2, end=6))
    gone = (~layer.head_mask).nonzero().flatten().tolist()
    assert set(gone) == set(least[: len(gone)])
    assert len(gone) == 2 if scope == "layer" else len(gone) < 4
    assert "ranked by magnitude: bert.encoder.layer.0" in caplog.text


def test_taylor_removes_no_layer_for_being_frozen(classifier: Make, pair: Make, fit: Make) -> None:
    student = frozen(classifier, 1)
    fit(pair(student), StructuredPruning(layers=1, criterion="taylor", begin=2, end=6))
    mask = student.bert.encoder.layer.layer_mask.tolist()
    assert sum(mask) == 2
    assert mask[1]
