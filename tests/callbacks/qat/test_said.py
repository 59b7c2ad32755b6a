"""What quantization-aware training warns of, logs and validates."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from pytorch_lightning import Callback, Trainer

from distill.callbacks import QuantizationAwareTraining
from distill.compression.quantization.layers import quantized_layers
from distill.compression.quantization.scheme import ActivationScheme, WeightScheme
from distill.losses import CrossEntropy, HintonKL

Make = Callable[..., Any]

DENSE = "bert.encoder.layer.0.intermediate.dense"


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "distill.callbacks.qat"]


@pytest.mark.parametrize(
    ("settings", "bits"),
    [
        ({"weights": WeightScheme(bits=3)}, 3),
        ({"weights": WeightScheme(bits=2), "embeddings": None}, 2),
        ({"overrides": {"intermediate": 3}}, 3),
    ],
    ids=["3 bits", "2 bits", "3 bits in one layer"],
)
def test_a_high_temperature_with_few_bits_is_warned_of(
    caplog: pytest.LogCaptureFixture, settings: dict[str, Any], bits: int, module: Make, fit: Make
) -> None:
    # Trap 30.
    losses = [CrossEntropy(), HintonKL(temperature=5.0), HintonKL(temperature=1.0, name="mild")]
    fit(module(losses=losses), QuantizationAwareTraining(**settings), max_steps=2)
    expected = f"model.losses.1.temperature = 5: can ruin the training of weights of {bits} bits; set it to 1"
    assert warnings_of(caplog) == [expected]


@pytest.mark.parametrize(("bits", "temperature"), [(3, 1.0), (3, 2.0), (4, 5.0), (8, 5.0)])
def test_nothing_is_said_of_a_low_temperature_or_of_more_bits(
    caplog: pytest.LogCaptureFixture, bits: int, temperature: float, module: Make, fit: Make
) -> None:
    model = module(losses=[CrossEntropy(), HintonKL(temperature)])
    fit(model, QuantizationAwareTraining(WeightScheme(bits=bits)), max_steps=2)
    assert not warnings_of(caplog)


def test_validation_is_of_the_rounded_student_and_beside_it_of_the_float_one(
    batches: Make, module: Make, fit: Make
) -> None:
    model = module()
    qat = QuantizationAwareTraining(WeightScheme(bits=2), activations=ActivationScheme(bits=2), begin=0.5)
    trainer = fit(model, qat, limit_val_batches=2, val_check_interval=10)
    metrics, student = trainer.callback_metrics, model.student.eval()
    rows = batches(2)
    labels = torch.cat([b.labels for b in rows])  # type: ignore[misc]

    def accuracy() -> float:
        with torch.no_grad():
            logits = torch.cat([student(**b.inputs).logits for b in rows])
        return float((logits.argmax(-1) == labels).float().mean())

    assert float(metrics["val/accuracy"]) == pytest.approx(accuracy())
    for each in quantized_layers(student).values():
        each.mode = "float"
    assert float(metrics["val/float_accuracy"]) == pytest.approx(accuracy())
    off = fit(module(), QuantizationAwareTraining(float_validation=False), limit_val_batches=1)
    assert not any(name.startswith("val/float") for name in off.callback_metrics)


@pytest.mark.parametrize(("every", "last"), [(3, 9), (5, 10), (10, 10)])
def test_only_the_last_validation_costs_a_second_one(every: int, last: int, module: Make, fit: Make) -> None:
    class Count(Callback):
        def __init__(self) -> None:
            self.passes: dict[int, int] = {}

        def on_validation_start(self, trainer: Trainer, pl_module: Any) -> None:
            at = trainer.global_step
            counted = lambda *_: self.passes.update({at: self.passes.get(at, 0) + 1})  # noqa: E731
            self.handle = pl_module.student.register_forward_hook(counted)

        def on_validation_end(self, trainer: Trainer, pl_module: Any) -> None:
            self.handle.remove()

    count = Count()
    fit(module(), QuantizationAwareTraining(), count, limit_val_batches=2, val_check_interval=every)
    assert count.passes == {step: 4 if step == last else 2 for step in range(every, 11, every)}


def test_validation_without_rounding_changes_nothing(module: Make, fit: Make) -> None:
    ends = []
    for told in (True, False):
        model = module()
        fit(model, QuantizationAwareTraining(float_validation=told), limit_val_batches=2, val_check_interval=3)
        ends.append(model.student.state_dict())
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])


def test_state_ranges_and_scales_are_logged(module: Make, fit: Make) -> None:
    trainer = fit(module(), QuantizationAwareTraining())
    logged = trainer.logged_metrics
    assert logged["qat/fake_quant"] == 1
    assert logged["qat/observing"] == 0
    assert logged["qat/input_range_max"] >= logged["qat/input_range_mean"] > 0
    assert logged["qat/weight_scale_mean"] > 0
    assert not any(DENSE in name for name in logged)
    logged = fit(module(), QuantizationAwareTraining(log_layers=True), max_steps=2).logged_metrics
    assert logged[f"qat/input_low/{DENSE}"] < logged[f"qat/input_high/{DENSE}"]
    assert logged[f"qat/weight_scale/{DENSE}"] > 0
