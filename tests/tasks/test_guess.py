"""What a prediction that looks at no input scores, and how sure a score is, by scikit-learn, numpy and a model."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import pytest
import torch
from sklearn.dummy import DummyClassifier
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef
from torch import Tensor
from torchmetrics import Metric

from distill.core.signals import IGNORE, Batch
from distill.core.tally import Counts, Tally
from distill.tasks import CausalLM, MaskedLM, Plain, Task, TextClassification, TokenClassification
from distill.tasks.metrics import BitsPerByte, Matthews, Pearson, Perplexity, Ratio, Spearman

GENERATOR = torch.Generator().manual_seed(0)


def counted(task: Task, logits: Tensor, batch: Batch) -> tuple[Counts, dict[str, float]]:
    """The counts of one batch, and its scores."""
    tally, metrics = Tally(), task.metrics()
    tally.add(task.predict(logits), batch, logits)
    task.update(metrics, logits, batch)
    return tally.take(1), {name: float(metric.compute()) for name, metric in metrics.items()}


@pytest.mark.parametrize("labels", [[0, 0, 0, 1, 1], [1, 1, 1, 1, 0], [3, 2, 2, 0, 2, 1], [0, 0, 2, 2, 2, 2]])
def test_the_guess_of_classes_is_scikit_learns_dummy(labels: list[int]) -> None:
    classes = 2 if max(labels) == 1 else 4
    task = TextClassification([f"c{i}" for i in range(classes)])
    batch = Batch({"x": torch.zeros(len(labels), 1)}, labels=torch.tensor(labels))
    counts, _ = counted(task, torch.randn(len(labels), classes, generator=GENERATOR), batch)
    said = DummyClassifier(strategy="most_frequent").fit(np.zeros((len(labels), 1)), labels).predict(labels)
    average = "binary" if classes == 2 else "macro"
    guess = task.guess(counts, None)
    assert guess is not None
    assert guess.scores == pytest.approx(
        {
            "accuracy": accuracy_score(labels, said),
            "f1": f1_score(labels, said, average=average, zero_division=0.0),
            "matthews": matthews_corrcoef(labels, said),
        }
    )
    assert guess.says == f"always 'c{said[0]}'"


@pytest.mark.parametrize("most", ["O", "PER"])
def test_the_guess_of_tags_scores_as_a_model_that_gives_it(most: str) -> None:
    task = TokenClassification(["O", "PER", "LOC"])
    row = {"O": [0, 0, 0, 1], "PER": [1, 1, 2, 0]}[most]
    batch = Batch({"x": torch.zeros(2, 5)}, labels=torch.tensor([[*row, IGNORE], [*row[:2], IGNORE, IGNORE, IGNORE]]))
    counts, _ = counted(task, torch.randn(2, 5, 3, generator=GENERATOR), batch)
    constant = torch.zeros(2, 5, 3)
    constant[..., task.labels.index(most)] = 1  # type: ignore[union-attr]
    guess = task.guess(counts, None)
    assert guess is not None
    assert guess.scores == pytest.approx(counted(task, constant, batch)[1])


@pytest.mark.parametrize("task", [CausalLM(), MaskedLM()])
def test_the_guess_of_tokens_scores_as_a_model_that_gives_the_frequencies(task: Task) -> None:
    labels = torch.randint(7, (3, 11), generator=GENERATOR)
    labels[0, 4:] = IGNORE
    batch = Batch({"x": labels}, labels=labels, extras={"bytes": torch.randint(5, (3, 11), generator=GENERATOR)})
    seen = torch.tensor([5, 0, 3, 9, 1])  # two tokens of the seven are not in the training data at all
    counts, _ = counted(task, torch.randn(3, 11, 7, generator=GENERATOR), batch)
    p = (np.array([5, 0, 3, 9, 1, 0, 0]) + 1) / (18 + 7)
    logits = torch.tensor(np.log(p)).float().expand(3, 11, 7)
    guess = task.guess(counts, seen)
    assert guess is not None
    assert guess.scores == pytest.approx(counted(task, logits, batch)[1], rel=1e-5)
    assert task.guess(counts, None) is None


def test_there_is_no_guess_where_nothing_has_a_label() -> None:
    for task in (Plain(), TextClassification(["a", "b"]), TokenClassification(["a", "b"]), CausalLM()):
        assert task.guess(Counts(), torch.ones(3)) is None


# ---------------------------------------------------------------------- how sure a score is


def test_the_error_of_a_proportion_is_the_binomial_one() -> None:
    metric, right = Ratio(), torch.rand(400, generator=GENERATOR) < 0.83
    for part in right.split(64):
        metric.update(part, torch.ones_like(part))
    p = float(metric.compute())
    assert float(metric.standard_error) == pytest.approx(math.sqrt(p * (1 - p) / 400))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("metric", "of"),
    [
        (BitsPerByte(), lambda nats, count: nats / count / math.log(2)),
        (Perplexity(), lambda nats, count: np.exp(nats / count)),
        (Ratio(), lambda nats, count: nats / count),
    ],
)
def test_the_error_of_a_ratio_is_that_of_a_bootstrap_over_samples(metric: Ratio, of: Mapping[str, float]) -> None:
    random = np.random.default_rng(0)
    counts = random.integers(5, 60, (300, 4))
    nats = counts * random.gamma(8, 0.2, (300, 1))  # the positions of a sample have much in common
    for part in np.array_split(np.arange(300), 7):
        metric.update(torch.tensor(nats[part]), torch.tensor(counts[part]))
    metric.compute()
    drawn = random.integers(0, 300, (4000, 300))
    draws = of(nats.sum(1)[drawn].sum(1), counts.sum(1)[drawn].sum(1))  # type: ignore[operator]
    assert float(metric.standard_error) == pytest.approx(draws.std(), rel=0.06)  # type: ignore[arg-type]


# ---------------------------------------------------------------------- correlations of what is constant


@pytest.mark.parametrize("classes", [2, 3])
def test_matthews_of_a_constant_prediction_is_nought(classes: int) -> None:
    labels = torch.tensor([1] * 60 + [0] * 40)
    metric = Matthews(classes)
    metric.update(torch.ones_like(labels), labels)
    assert float(metric.compute()) == 0
    metric.reset()
    metric.update(labels, torch.ones_like(labels))  # labels of one class
    assert float(metric.compute()) == 0


@pytest.mark.parametrize("kind", [Pearson, Spearman])
def test_a_correlation_with_what_is_constant_is_nought_and_with_what_is_no_number_is_none(kind: type[Metric]) -> None:
    numbers, metric = torch.arange(10.0), kind()
    assert math.isnan(float(metric.compute()))
    metric.reset()
    metric.update(torch.ones(10), numbers)
    assert float(metric.compute()) == 0
    metric.reset()
    metric.update(numbers / 0, numbers)
    assert math.isnan(float(metric.compute()))
