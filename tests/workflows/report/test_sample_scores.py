"""Metrics of samples drawn anew are those of a validation on these samples."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef
from torch import Tensor

from distill.core.signals import IGNORE, Batch, Signals
from distill.core.task import Task
from distill.tasks import TASKS
from distill.workflows.report.sample_scores import SampleScores
from distill.workflows.report.statistics import resamples

N = 40


def shown(task: Task, logits: Tensor, labels: Tensor, **more: Tensor) -> SampleScores:
    """Every sample, in batches of 16."""
    scores = SampleScores(task)
    for start in range(0, len(logits), 16):
        part = slice(start, start + 16)
        extras = {name: value[part] for name, value in more.items() if name != "mask"}
        mask = more["mask"][part] if "mask" in more else None
        batch = Batch(inputs={"input": logits[part]}, labels=labels[part], mask=mask, extras=extras)
        scores.add(Signals(logits[part]), batch)
    return scores


def drawn() -> tuple[np.ndarray, ...]:
    """The rows of three draws, and which of the samples have even numbers."""
    rows = [np.repeat(np.arange(N), counts) for counts in np.concatenate(list(resamples(N, 3, 0)))]
    return (*rows, np.arange(N) % 2 == 0)


def check(scores: SampleScores, expected: dict[str, Callable[[np.ndarray], float]]) -> None:
    *rows, even = drawn()
    found = scores.draws(3, 0)
    for name, of in expected.items():
        assert scores.values()[name] == pytest.approx(of(np.arange(N)), abs=1e-6)
        assert found[name] == pytest.approx([of(one) for one in rows], abs=1e-6)
        assert scores.of(even)[name] == pytest.approx(of(np.flatnonzero(even)), abs=1e-6)


@pytest.mark.parametrize("count", [2, 4])
def test_scores_of_classes_are_drawn_anew(count: int) -> None:
    torch.manual_seed(count)
    logits, labels = torch.randn(N, count), torch.randint(0, count, (N,))
    taken = logits.argmax(-1).numpy()
    true = labels.numpy()
    names = [chr(97 + one) for one in range(count)]
    kind: dict[str, object] = {"average": "binary"} if count == 2 else {"average": "macro"}
    check(
        shown(TASKS["text-classification"](names), logits, labels),  # type: ignore[call-arg]
        {
            "accuracy": lambda at: accuracy_score(true[at], taken[at]),
            "f1": lambda at: f1_score(true[at], taken[at], **kind),
            "matthews": lambda at: matthews_corrcoef(true[at], taken[at]),
        },
    )


def test_correlations_which_no_sum_of_states_gives_are_drawn_anew_too() -> None:
    torch.manual_seed(0)
    logits = torch.randn(N, 1)
    labels = logits[:, 0] + torch.randn(N)
    ours, true = logits[:, 0].numpy(), labels.numpy()
    check(
        shown(TASKS["text-classification"](None), logits, labels),  # type: ignore[call-arg]
        {
            "pearson": lambda at: pearsonr(ours[at], true[at])[0],
            "spearman": lambda at: spearmanr(ours[at], true[at])[0],
        },
    )


def test_a_language_model_is_drawn_by_its_blocks() -> None:
    torch.manual_seed(0)
    logits, labels = torch.randn(N, 5, 7), torch.randint(0, 7, (N, 5))
    mask = torch.rand(N, 5) < 0.7
    mask[:, 0] = True
    spelt = torch.randint(1, 4, (N, 5)) * mask
    nats = -logits.log_softmax(-1).gather(-1, labels[..., None])[..., 0] * mask
    sums, counts, lengths = (of.sum(1).double().numpy() for of in (nats, mask, spelt))
    check(
        shown(TASKS["causal-lm"](), logits, labels.masked_fill(~mask, IGNORE), mask=mask, bytes=spelt),
        {
            "perplexity": lambda at: float(np.exp(sums[at].sum() / counts[at].sum())),
            "bits_per_byte": lambda at: float(sums[at].sum() / np.log(2) / lengths[at].sum()),
        },
    )
