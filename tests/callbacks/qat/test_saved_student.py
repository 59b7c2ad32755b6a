"""What was trained with rounding is what is saved."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel

import distill
from distill.callbacks import QuantizationAwareTraining
from distill.compression.quantization.layers import QuantizedLinear, quantized_layers
from distill.compression.quantization.scheme import WeightScheme
from distill.core.signals import Batch
from distill.core.utils.errors import TrainingError
from distill.losses import CrossEntropy
from distill.models import saved_student
from distill.tasks import CausalLM
from distill.training.module import Distillation
from distill.training.optimizer import OptimizerConfig

Make = Callable[..., Any]

DENSE = "bert.encoder.layer.0.intermediate.dense"
LEARNED = WeightScheme(bits=4, learned=True)
NF4, KMEANS = WeightScheme(bits=4, format="nf4"), WeightScheme(bits=2, format="kmeans")


@pytest.mark.parametrize("weights", [WeightScheme(), NF4, KMEANS], ids=["int8", "nf4", "kmeans"])
def test_what_was_trained_is_what_is_saved(
    weights: WeightScheme, tmp_path: Path, module: Make, fit: Make, predicted: Make
) -> None:
    # Trap 28, to the bit: last validation, finished student, and the folder opened again.
    model, qat = module(), QuantizationAwareTraining(weights, embeddings=weights)
    before = model.state_dict().keys()
    fit(model, qat)
    trained = predicted(model.student)
    steps = qat.finish(model.student)
    assert torch.equal(predicted(model.student), trained)
    saved_student.save(model.student, tmp_path / "student", steps=steps)
    loaded = distill.load(tmp_path / "student")
    assert torch.equal(predicted(loaded), trained)
    assert isinstance(loaded.get_submodule(DENSE), QuantizedLinear)
    names = loaded.state_dict().keys()
    assert {name.removeprefix("student.") for name in before if name.startswith("student.")} <= names
    assert not any("range" in name for name in names)


def test_it_changes_what_the_student_computes(module: Make, fit: Make, predicted: Make) -> None:
    model, qat = module(), QuantizationAwareTraining(WeightScheme(bits=2), begin=0.5)
    fit(model, qat)
    rounded = predicted(model.student)
    for each in quantized_layers(model.student).values():
        each.mode = "float"
    assert not torch.allclose(predicted(model.student), rounded)


def test_it_learns_with_the_rounding_that_it_is_saved_with(batches: Make, module: Make, fit: Make) -> None:
    losses, two, rows = {}, WeightScheme(bits=2), batches(5)
    for begin in (1, 99):  # with rounding, and rounded at the end
        model = module(losses=[CrossEntropy()])
        qat = QuantizationAwareTraining(two, embeddings=two, begin=begin, freeze_observers=100)
        fit(model, qat, rows=rows, max_steps=100, max_epochs=-1)
        qat.finish(model.student)
        model.student.eval()
        with torch.no_grad():
            logits = torch.cat([model.student(**batch.inputs).logits for batch in rows])
        labels = torch.cat([batch.labels for batch in rows if batch.labels is not None])
        losses[begin] = float(nn.functional.cross_entropy(logits, labels))
    assert losses[1] < 0.6 * losses[99], losses


def test_a_tied_language_model_goes_the_whole_way(tmp_path: Path, batches: Make, fit: Make) -> None:
    torch.manual_seed(0)
    sizes = {"vocab_size": 40, "n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 16}
    student = GPT2LMHeadModel(GPT2Config(**sizes, eos_token_id=0))
    rows = [
        Batch({"input_ids": b.inputs["input_ids"]}, labels=b.inputs["input_ids"].roll(-1, 1), ids=b.ids)
        for b in batches(10)
    ]
    model = Distillation(student, CausalLM(), None, [CrossEntropy()], OptimizerConfig(lr=1e-2))
    qat = QuantizationAwareTraining(WeightScheme(bits=4), embeddings=WeightScheme(bits=4))
    fit(model, qat, rows=rows)
    student.eval()
    ids = rows[0].inputs["input_ids"]
    with torch.no_grad():
        trained = student(ids).logits
        saved_student.save(student, tmp_path / "student", steps=qat.finish(student))
        assert torch.equal(student(ids).logits, trained)
        assert torch.equal(distill.load(tmp_path / "student")(ids).logits, trained)
    assert student.lm_head.weight is student.transformer.wte.weight
    assert student.lm_head.integers().abs().max() <= 7


@pytest.mark.parametrize("weights", [WeightScheme(), WeightScheme(symmetric=False), LEARNED])
def test_a_student_in_bfloat16_has_its_ranges_and_scales_in_float32(
    weights: WeightScheme, module: Make, fit: Make, layer: Make, predicted: Make
) -> None:
    model, qat = module(), QuantizationAwareTraining(weights, begin=4)
    fit(model, qat, precision="bf16-true")
    dense = layer(model.student)
    assert dense.weight.dtype is torch.bfloat16
    assert dense.input_range.dtype is torch.float32
    assert dense.input_range.isfinite().all()
    trained = predicted(model.student)
    qat.finish(model.student)
    assert dense.weight_scale.dtype is torch.float32
    values = dense.integers().float()
    if dense.weight_zero_point is not None:
        values = values - dense.weight_zero_point[:, None]
    assert torch.equal((values * dense.weight_scale[:, None]).bfloat16(), dense.weight)
    assert torch.equal(predicted(model.student), trained)


def test_validating_a_finished_student_leaves_it_finished(
    batches: Make, module: Make, loader: Make, fit: Make, layer: Make, predicted: Make
) -> None:
    model, qat = module(), QuantizationAwareTraining()
    trainer = fit(model, qat)
    qat.finish(model.student)
    shipped = predicted(model.student)
    trainer.validate(model, loader(batches(1)), verbose=False)
    assert layer(model.student).mode == "frozen"
    assert torch.equal(predicted(model.student), shipped)


def test_a_run_that_ended_before_anything_was_observed_saves_nothing(module: Make) -> None:
    model, qat = module(), QuantizationAwareTraining(observe=5, begin=6, freeze_observers=10)
    qat.prepare(model.student)
    with pytest.raises(TrainingError, match="before any input's range was observed"):
        qat.finish(model.student)
