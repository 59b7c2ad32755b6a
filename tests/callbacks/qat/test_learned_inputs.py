"""Quantization-aware training that learns the grid of static inputs."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from jsonargparse import ArgumentParser
from pytorch_lightning import Callback, Trainer
from torch import nn
from torch.utils.data import DataLoader

import distill
from distill.callbacks import ExponentialMovingAverage, QuantizationAwareTraining
from distill.compression.quantization.layers import quantized_layers
from distill.compression.quantization.scheme import ActivationScheme, WeightScheme
from distill.core import record
from distill.core.signals import Batch
from distill.export.targets import TARGETS, write
from distill.models import saved_student
from distill.tasks import Plain, TextClassification
from distill.training.module import Distillation
from distill.training.optimizer import OptimizerConfig

Make = Callable[..., Any]

SYMMETRIC, AFFINE = ActivationScheme(symmetric=True, learned=True), ActivationScheme(learned=True)
SMALL = {"lr": 1e-3}
EACH = pytest.mark.parametrize("inputs", [SYMMETRIC, AFFINE], ids=["symmetric", "affine"])


class KeepAt(Callback):
    """Saves a checkpoint after one step."""

    def __init__(self, path: Path, step: int) -> None:
        self.path, self.step = path, step

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        if trainer.global_step == self.step:
            trainer.save_checkpoint(self.path)


@EACH
def test_what_was_trained_is_what_is_saved(
    tmp_path: Path, inputs: ActivationScheme, module: Make, fit: Make, layer: Make, predicted: Make
) -> None:
    model, qat = module(**SMALL), QuantizationAwareTraining(activations=inputs)
    fit(model, qat)
    assert layer(model.student).input_change.ne(0).all()
    trained = predicted(model.student)
    saved_student.save(model.student, tmp_path / "student", steps=qat.finish(model.student))
    assert torch.equal(predicted(model.student), trained)
    assert torch.equal(predicted(distill.load(tmp_path / "student")), trained)


@pytest.mark.slow
def test_the_exported_integers_decide_as_the_trained_student(
    tmp_path: Path, batches: Make, module: Make, fit: Make, layer: Make
) -> None:
    pytest.importorskip("onnxruntime")
    model, qat = module(**SMALL), QuantizationAwareTraining(activations=AFFINE)
    fit(model, qat)
    for step in qat.finish(model.student):
        record.note(model.student, step)
    task = TextClassification(["no", "yes"])
    found = write(TARGETS["onnx-int8"]("vnni"), model.student.eval(), tmp_path, task=task, batches=lambda: batches(4))
    assert found["verified"]["agreement"] == 1.0
    assert found["integer_products"] == 7


def test_training_takes_over_from_the_observers_when_rounding_begins(
    module: Make, fit: Make, layer: Make, watching: Make
) -> None:
    qat = QuantizationAwareTraining(activations=AFFINE, observe=2, begin=4, freeze_observers=7)
    watch = watching(lambda s: (layer(s).observing, layer(s).input_range.tolist(), layer(s).input_change.tolist()))
    fit(module(**SMALL), qat, watch)
    observing, ranges, changes = zip(*watch.seen, strict=True)
    assert list(observing) == [2 <= step < 4 for step in range(10)]
    assert qat.timeline(range(10), 10)["observing"] == list(map(float, observing))
    assert all(seen == ranges[4] for seen in ranges[4:])
    assert all(change == [0.0, 0.0] for change in changes[:5])
    assert all(before != after for before, after in pairwise(changes[4:]))


def test_where_rounding_begins_at_once_one_batch_is_observed(
    module: Make, fit: Make, layer: Make, watching: Make
) -> None:
    qat = QuantizationAwareTraining(activations=SYMMETRIC, begin=0)
    watch = watching(lambda s: (layer(s).observing, layer(s).ranged, float(layer(s).input_change)))
    fit(module(**SMALL), qat, watch, max_steps=3)
    assert [(observing, ranged) for observing, ranged, _ in watch.seen] == [(True, False), (False, True), (False, True)]
    assert [bool(change) for *_, change in watch.seen] == [False, False, True]
    assert [qat.target_reached(step, 3) for step in (0, 1)] == [False, True]


def test_until_it_begins_the_student_is_trained_as_without_it(module: Make, fit: Make) -> None:
    alone, with_it = module(), module()
    fit(alone)
    fit(with_it, QuantizationAwareTraining(activations=AFFINE, begin=10, freeze_observers=10))
    for name, value in alone.student.state_dict().items():
        assert torch.equal(with_it.student.state_dict()[name], value), name


@EACH
@pytest.mark.parametrize("after", [2, 4, 7])
def test_a_resumed_run_ends_with_the_bits_of_an_undisturbed_one(
    tmp_path: Path, after: int, inputs: ActivationScheme, batches: Make, module: Make, fit: Make
) -> None:
    def run(*more: Callback, resume: Any = None) -> Distillation:
        model: Distillation = module(**SMALL)
        qat = QuantizationAwareTraining(activations=inputs, observe=1, begin=4, freeze_observers=8)
        rows, done = batches(10), after if resume else 0
        rows = rows[done:] + rows[:done]  # a plain loader begins anew
        fit(model, qat, *more, rows=rows, resume=resume)
        return model

    whole, resumed = run(KeepAt(tmp_path / "c.ckpt", after)), run(resume=tmp_path / "c.ckpt")
    assert any(name.endswith("input_change") for name, _ in whole.student.named_parameters())
    for name, value in whole.student.state_dict().items():
        assert torch.equal(resumed.student.state_dict()[name], value), name


def test_a_checkpoint_is_validated_with_the_grid_that_it_was_saved_with(
    tmp_path: Path, bert: Make, batches: Make, module: Make, loader: Make, fit: Make, predicted: Make
) -> None:
    trained = module(**SMALL)
    fit(trained, QuantizationAwareTraining(activations=AFFINE), KeepAt(tmp_path / "c.ckpt", 10))
    fresh, qat = module(bert(3)), QuantizationAwareTraining(activations=AFFINE)
    trainer = Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, callbacks=[qat])
    trainer.validate(fresh, loader(batches(1)), ckpt_path=tmp_path / "c.ckpt", verbose=False, weights_only=True)
    assert torch.equal(predicted(fresh.student), predicted(trained.student))


def test_a_run_fitted_again_begins_from_the_range_that_it_observes(
    module: Make, fit: Make, layer: Make, watching: Make
) -> None:
    model, qat = module(**SMALL), QuantizationAwareTraining(activations=SYMMETRIC, begin=2)
    fit(model, qat)
    watch = watching(lambda s: float(layer(s).input_change))
    fit(model, qat, watch)
    assert watch.seen[2] == 0 != watch.seen[3]


def test_an_average_of_weights_keeps_a_grid_that_fits(module: Make, fit: Make, layer: Make) -> None:
    # Averaging begins long before there is a scale to average.
    model, average = module(**SMALL), ExponentialMovingAverage(decay=0.999)
    qat = QuantizationAwareTraining(activations=SYMMETRIC, begin=8)
    fit(model, qat, average)
    observed = float(layer(model.student).input_range.abs().max()) / 127
    average.finish(model.student)
    qat.finish(model.student)
    assert float(layer(model.student).input_scale) == pytest.approx(observed, rel=0.2)


def test_a_run_that_ended_early_saves_the_observed_grid(module: Make, fit: Make, layer: Make) -> None:
    class Stop(Callback):
        def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
            trainer.should_stop = trainer.global_step == 3

    model, qat = module(), QuantizationAwareTraining(activations=SYMMETRIC, begin=8)
    assert fit(model, qat, Stop()).global_step == 3
    observed = float(layer(model.student).input_range.abs().max()) / 127
    qat.finish(model.student)
    assert float(layer(model.student).input_scale) == pytest.approx(observed)


def test_neither_decay_nor_overrides_touch_the_grid(module: Make, fit: Make) -> None:
    model = module(weight_decay=0.25)
    overrides: dict[str, int | WeightScheme | None] = {"query": 4, "key": None}
    qat = QuantizationAwareTraining(activations=AFFINE, overrides=overrides)
    groups = fit(model, qat, max_steps=2).optimizers[0].param_groups

    def decays(end: str) -> list[float]:
        wanted = {id(p) for name, p in model.student.named_parameters() if name.endswith(end)}
        return [group["weight_decay"] for group in groups for p in group["params"] if id(p) in wanted]

    # Query, value, the attention's output, both maps of the FFN, the pooler.
    assert decays("input_change") == [0.0] * 6
    assert decays("query.weight") == [0.25]
    layers = quantized_layers(model.student)
    inside = "bert.encoder.layer.0.attention.self"
    assert layers[f"{inside}.query"].scheme.activations == AFFINE
    assert type(model.student.get_submodule(f"{inside}.key")) is nn.Linear


@EACH
def test_a_student_in_bfloat16_saves_its_grid_in_float32(
    inputs: ActivationScheme, module: Make, fit: Make, layer: Make, predicted: Make
) -> None:
    model, qat = module(**SMALL), QuantizationAwareTraining(activations=inputs, begin=4)
    fit(model, qat, precision="bf16-true")
    trained = predicted(model.student)
    qat.finish(model.student)
    assert layer(model.student).input_scale.dtype is torch.float32
    assert torch.equal(predicted(model.student), trained)


def test_yaml_says_it() -> None:
    text = "[{class_path: QuantizationAwareTraining, init_args: {activations: {kind: static, learned: true}}}]"
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--callbacks", type=list[Callback], sub_configs=False)
    (qat,) = parser.instantiate(parser.parse_object({"callbacks": yaml.safe_load(text)})).callbacks
    assert qat.activations == AFFINE


def test_a_layer_whose_first_rows_come_late_learns_its_scale_too() -> None:
    """As an expert to which the first batches send nothing."""

    class Late(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.late, self.head = nn.Linear(4, 8), nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 2)

        def forward(self, input: torch.Tensor) -> torch.Tensor:
            x = self.b(self.a(input).relu())
            sent = input[:, 0] > 0
            return self.head(x.index_add(0, sent.nonzero().flatten(), self.late(x[sent])).relu())

    torch.manual_seed(0)
    x = [torch.randn(6, 4).abs() * (1 if step >= 4 else -1) for step in range(8)]
    rows = [Batch({"input": part}, labels=torch.randint(0, 2, (6,)), ids=list(range(6))) for part in x]
    qat, net = QuantizationAwareTraining(activations=AFFINE, embeddings=None), Late()
    options: dict[str, Any] = dict.fromkeys(
        ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False
    )
    trainer = Trainer(accelerator="cpu", max_steps=8, callbacks=[qat], **options)
    trainer.fit(Distillation(net, Plain(), optimizer=OptimizerConfig(lr=1e-2)), DataLoader(rows, batch_size=None))
    assert quantized_layers(net)["late"].input_change.ne(0).any()
    assert [scheme["activations"] is None for scheme in qat.finish(net)[0]["modules"].values()] == [False, False]
