"""Structured pruning beside other compressions."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import distill
from distill.callbacks import (
    GradualMagnitudePruning,
    LowRank,
    QuantizationAwareTraining,
    ShareParameters,
    StructuredPruning,
)
from distill.compression.quantization.scheme import WeightScheme
from distill.core.record import note
from distill.core.utils.errors import UserError
from distill.models.saved_student import save

Make = Callable[..., Any]


def test_scales_over_groups_of_inputs_that_go_are_refused(classifier: Make, pair: Make, fit: Make) -> None:
    grouped = WeightScheme(bits=4, granularity="group", group_size=4)
    with pytest.raises(UserError, match=r"layer\.0\.output\.dense.*every 4 inputs"):
        fit(pair(classifier()), StructuredPruning(neurons=0.5), QuantizationAwareTraining(weights=grouped))


@pytest.mark.parametrize("family", ["bert", "gpt2", "llama"])
def test_all_compressions_go_together(
    tmp_path: Path, family: str, classifier: Make, pair: Make, fit: Make, logits: Make
) -> None:
    callbacks = [
        ShareParameters([[1, 2]]),
        LowRank(rank=3),
        StructuredPruning(heads=0.5, end=4, every_n_steps=1),
        GradualMagnitudePruning(0.5, end=4, include=[r"intermediate|\d\.output|mlp"]),
        QuantizationAwareTraining(begin=2, freeze_observers=6),
    ]
    module = pair(classifier(family))
    fit(module, *callbacks)
    student = module.student
    trained = logits(student)
    for callback in callbacks:
        note(student, *callback.finish(student))
    torch.testing.assert_close(logits(student), trained, rtol=1e-5, atol=1e-5)
    save(student, tmp_path / "student")
    assert torch.equal(logits(distill.load(tmp_path / "student")), logits(student))


def test_trained_scales_of_groups_shrink_with_their_outputs(
    tmp_path: Path, classifier: Make, pair: Make, fit: Make, logits: Make
) -> None:
    grouped = WeightScheme(bits=4, granularity="group", group_size=4, learned=True)
    pruning = StructuredPruning(heads=0.5, neurons=0.5, end=4, every_n_steps=1)
    qat = QuantizationAwareTraining(grouped, overrides={r"output\.dense": WeightScheme()}, begin=2, freeze_observers=6)
    module = pair(classifier())
    fit(module, pruning, qat)
    student = module.student
    trained = logits(student)
    for callback in (pruning, qat):
        note(student, *callback.finish(student))
    torch.testing.assert_close(logits(student), trained, rtol=1e-5, atol=1e-5)
    save(student, tmp_path / "student")
    assert torch.equal(logits(distill.load(tmp_path / "student")), logits(student))


def test_sparsity_is_of_what_removed_heads_and_neurons_leave(
    tmp_path: Path, classifier: Make, pair: Make, fit: Make, logits: Make
) -> None:
    structured = StructuredPruning(heads=0.5, neurons=0.5, end=4, every_n_steps=1)
    single = GradualMagnitudePruning(0.7, end=4, every_n_steps=1, scope="layer")
    module = pair(classifier())
    fit(module, structured, single)
    student: Any = module.student
    into = student.bert.encoder.layer[0].intermediate.dense
    gone = into.weight.abs().sum(1) == 0
    assert int(gone.sum()) >= 10
    assert int((~into.weight_mask[student.bert.encoder.layer[0].neuron_mask]).sum()) == 112  # of 10 x 16
    assert into.weight_mask[~student.bert.encoder.layer[0].neuron_mask].all()
    trained = logits(student)
    for callback in (structured, single):
        note(student, *callback.finish(student))
    torch.testing.assert_close(logits(student), trained, rtol=1e-5, atol=1e-5)
    *_, step = student._compression_steps
    sizes = {name: counts["weights"] for name, counts in step["layers"].items()}
    assert sizes["bert.encoder.layer.0.intermediate.dense"] == 160
    assert step["actual"] == pytest.approx(0.7, abs=0.01)
    save(student, tmp_path / "student")
    assert torch.equal(logits(distill.load(tmp_path / "student")), logits(student))


def test_scales_over_groups_of_an_embedding_that_narrows_are_refused(classifier: Make, pair: Make, fit: Make) -> None:
    qat = QuantizationAwareTraining(embeddings=WeightScheme(bits=4, granularity="group", group_size=4))
    with pytest.raises(UserError, match=r"word_embeddings.*every 4 inputs, of which hidden go"):
        fit(pair(classifier()), StructuredPruning(hidden=0.5), qat)
