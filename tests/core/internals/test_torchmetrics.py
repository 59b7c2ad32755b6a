"""What is counted on of torchmetrics: states that add up, and metrics computed of them."""

from __future__ import annotations

import torch
from torchmetrics.classification import MulticlassF1Score
from torchmetrics.regression import SpearmanCorrCoef

from distill.core.internals.torchmetrics import additive_states, value_of
from distill.tasks.metrics import Matthews, Pearson, Ratio


def test_counts_add_up_and_correlations_do_not() -> None:
    for metric in (Ratio(), Matthews(3), MulticlassF1Score(3)):
        assert additive_states(metric)
    for metric in (Pearson(), SpearmanCorrCoef()):
        assert additive_states(metric) is None


def test_a_metric_of_added_states_is_that_of_all_batches() -> None:
    torch.manual_seed(0)
    labels, predicted = torch.randint(0, 3, (2, 60))
    whole, metric = (MulticlassF1Score(3, average="macro") for _ in range(2))
    total: dict[str, torch.Tensor] = {}
    for part in range(0, 60, 20):
        metric.reset()
        metric.update(predicted[part : part + 20], labels[part : part + 20])
        states = additive_states(metric) or {}
        total = {name: total[name] + state if total else state.clone() for name, state in states.items()}
    whole.update(predicted, labels)
    assert value_of(metric, total) == float(whole.compute())
