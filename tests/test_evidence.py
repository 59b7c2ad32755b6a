"""What a validation measures besides scores: layers that say nothing, and counts that add up."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from distill.evidence import Spreads, empty_layers
from distill.signals import IGNORE, Batch
from distill.tally import Counts, Tally


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv1d(2, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(24, 5), nn.Tanh(), nn.Linear(5, 3))


def constant(model: nn.Module, inputs: torch.Tensor) -> list[str]:
    spreads = Spreads()
    with spreads.watching(model), torch.no_grad():
        model(inputs)
    return spreads.constant()


@pytest.mark.parametrize("layer", ["0", "3", "5"])
def test_the_layer_that_lets_nothing_through_is_named_and_no_other(layer: str) -> None:
    model, inputs = net(), torch.randn(6, 2, 8)
    assert constant(model, inputs) == []
    with torch.no_grad():
        model.get_submodule(layer).weight.zero_()
    assert constant(model, inputs) == [layer]
    assert empty_layers(model) == [layer]


def test_layers_of_one_input_or_of_inputs_that_are_the_same_are_not_accused() -> None:
    assert constant(nn.Linear(4, 2), torch.randn(1, 4)) == []
    assert constant(nn.Linear(4, 2), torch.ones(5, 4)) == []


def test_looking_leaves_no_hook() -> None:
    model = net()
    constant(model, torch.randn(6, 2, 8))
    assert not any(module._forward_hooks for module in model.modules())


def test_labels_that_do_not_count_are_not_counted() -> None:
    tally, ids = Tally(), torch.zeros(2, 3)
    labels = torch.tensor([[0, 2, IGNORE], [2, 2, 1]])
    mask = torch.tensor([[True, True, True], [True, False, True]])
    predicted = torch.tensor([[1, 1, 0], [1, 0, 2]])
    tally.add(predicted, Batch({"x": ids}, labels=labels, mask=mask, extras={"bytes": torch.ones(2, 3)}), classes=4)
    counts = tally.take(1)
    assert counts.labels.tolist() == [1, 1, 2, 0]
    assert counts.predictions.tolist() == [0, 3, 1, 0]
    assert (counts.total, counts.sums) == (4, {"bytes": 6.0})
    assert tally.take(1).total == 0


def test_a_rank_without_a_batch_adds_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    other = Counts(3, torch.tensor([1, 2]), torch.tensor([3, 0]), {"bytes": 2.0})

    def gather(parts: list[Counts], mine: Counts) -> None:
        parts[:] = [mine, other]

    monkeypatch.setattr(torch.distributed, "all_gather_object", gather)
    counts = Tally().take(2)
    assert (counts.total, counts.labels.tolist(), counts.sums) == (3, [1, 2], {"bytes": 2.0})


def test_rows_without_a_label_are_counted_nowhere_without_a_mask_too() -> None:
    tally = Tally()
    tally.add(torch.tensor([0, 2, 1]), Batch({"x": torch.zeros(3, 1)}, labels=torch.tensor([0, IGNORE, 2])), classes=3)
    counts = tally.take(1)
    assert (counts.total, counts.labels.tolist(), counts.predictions.tolist()) == (2, [1, 0, 1], [1, 1, 0])
