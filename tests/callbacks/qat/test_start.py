"""Quantization-aware training that starts from GPTQ and the like."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning import Callback, Trainer
from torch.utils.data import DataLoader

from distill.callbacks import Determinism, ExponentialMovingAverage, QuantizationAwareTraining
from distill.compression.quantization.layers import quantized_layers
from distill.compression.quantization.lifecycle import as_float
from distill.compression.quantization.ptq import quantize
from distill.compression.quantization.scheme import ActivationScheme, WeightScheme
from distill.compression.quantization.starts.settings import Start
from distill.core.utils.errors import UserError
from distill.data.batches import TrainingBatches
from distill.training.calibration import _from_the_front
from distill.training.module import Distillation

Make = Callable[..., Any]

THREE = WeightScheme(bits=3)
GPTQ = Start(method="gptq", samples=16)


def qat(weights: WeightScheme = THREE, start: Start = GPTQ, **settings: Any) -> QuantizationAwareTraining:
    return QuantizationAwareTraining(weights, None, None, start=start, **({"begin": 4} | settings))


def test_it_starts_from_what_is_quantized_without_training(bert: Make, batches: Make, module: Make, fit: Make) -> None:
    model, callback = module(bert(dropout=0.0), lr=1e-12), qat(begin=0)
    fit(model, callback, max_steps=1)
    callback.finish(model.student)
    other, rows = bert(dropout=0.0), batches(2)
    steps = quantize(other, rows, lambda m, b: m(**b.inputs), weights=THREE, start=GPTQ)
    assert set(steps[0]["modules"]) == set(quantized_layers(model.student))
    for name, layer in quantized_layers(other).items():
        found = quantized_layers(model.student)[name]
        assert torch.equal(found.integers(), layer.integers())
        torch.testing.assert_close(found.weight_scale, layer.weight_scale)


@pytest.mark.parametrize(
    ("after", "method"), [(2, "gptq"), (4, "gptq"), (4, "smoothquant"), (5, "awq")], ids=lambda value: str(value)
)
def test_a_resumed_run_ends_with_the_bits_of_an_undisturbed_one(
    tmp_path: Path, after: int, method: str, batches: Make, module: Make, fit: Make
) -> None:
    class Keep(Callback):
        def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
            if trainer.global_step == after:
                trainer.save_checkpoint(tmp_path / "c.ckpt")

    class Rows(DataLoader[Any]):
        """Begins where the run is, and for another pass at the front."""

        passes = 0

        def __iter__(self) -> Any:
            rows = self.dataset
            self.passes += 1
            return iter(rows[self.done :] if self.passes == 1 else rows)  # type: ignore[attr-defined, index]

    def run(*more: Callback, resume: Any = None) -> Distillation:
        model, loader = module(), Rows(batches(10), batch_size=None)
        loader.done = 0 if resume is None else after  # type: ignore[attr-defined]
        callback = qat(start=Start(method=method, samples=16))
        settings: dict[str, Any] = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False}
        settings |= {"enable_checkpointing": False, "enable_model_summary": False, "max_steps": 7}
        Trainer(**settings, callbacks=[callback, *more, Determinism(1)]).fit(
            model, loader, ckpt_path=resume, weights_only=True
        )
        callback.finish(model.student)
        return model

    whole, resumed = run(Keep()), run(resume=tmp_path / "c.ckpt")
    for name, value in whole.student.state_dict().items():
        assert torch.equal(resumed.student.state_dict()[name], value), name


def test_a_grid_stands_still_or_is_trained(module: Make, fit: Make, watching: Make) -> None:
    name = "bert.encoder.layer.0.intermediate.dense"
    for learned in (False, True):
        watch = watching(lambda student: student.get_submodule(name).weight_scale.detach().clone())
        fit(module(), qat(WeightScheme(bits=3, learned=learned)), watch)
        assert not torch.equal(watch.seen[3], watch.seen[4])
        assert torch.equal(watch.seen[4], watch.seen[9]) is not learned


def test_ranges_that_were_observed_before_channels_were_scaled_are_observed_anew(
    module: Make, fit: Make, bert: Make, batches: Make
) -> None:
    student, inputs = bert(dropout=0.0), ActivationScheme(observer="minmax")
    with torch.no_grad():
        student.bert.encoder.layer[0].attention.self.value.weight.mul_(torch.linspace(1, 40, 16)[:, None])
    smooth = Start(method="smoothquant", samples=16)
    callback = QuantizationAwareTraining(activations=inputs, start=smooth, begin=4, freeze_observers=4)
    fit(module(student, lr=1e-12), callback, max_steps=5)
    layer = quantized_layers(student)["bert.encoder.layer.0.attention.output.dense"]
    seen: list[torch.Tensor] = []
    layer.register_forward_pre_hook(lambda _, args: seen.append(args[0].detach()))
    with as_float(student):
        for batch in batches(2):
            student.eval()(**batch.inputs)
    torch.testing.assert_close(layer.input_range, torch.stack(torch.aminmax(torch.stack(seen))), rtol=1e-4, atol=1e-5)


def test_an_average_begins_anew_where_channels_were_scaled(module: Make, fit: Make) -> None:
    model, average = module(lr=1e-12), ExponentialMovingAverage(0.9)
    fit(model, qat(start=Start(method="smoothquant", samples=8)), average)
    for name, weight in model.student.named_parameters():
        torch.testing.assert_close(average._average[name], weight.data, rtol=1e-5, atol=1e-7)


def test_the_first_batches_are_the_same_wherever_the_run_is() -> None:
    import numpy as np

    sampler = TrainingBatches(np.arange(1, 41), 4, seed=0, position=lambda: 7)
    rows = {(0, row): row for row in range(40)}
    loader: Any = DataLoader(rows, batch_sampler=sampler)  # type: ignore[arg-type]
    first = [batch.tolist() for batch in _from_the_front(loader, "k")]
    assert first == [[row for _, row in keys] for keys in TrainingBatches(np.arange(1, 41), 4, seed=0, position=int)]
    assert sampler.position() == 7
    with pytest.raises(UserError, match=r"k = 'list': looks at the first training batches, of one loader"):
        _from_the_front([loader, loader], "k")


def test_a_setting_of_another_method_is_refused() -> None:
    with pytest.raises(UserError, match=r"QuantizationAwareTraining\.start\.alpha = 0\.3: has no effect"):
        qat(start=Start(method="gptq", alpha=0.3))


def test_a_loader_whose_workers_persist_is_not_begun_anew() -> None:
    class Persistent:
        """Its one iterator is that which the training reads."""

        begun = 0

        def __iter__(self) -> Any:
            self.begun += 1
            return iter([1, 2])

    loader = Persistent()
    _from_the_front(loader, "start")
    assert loader.begun == 0
    with pytest.raises(UserError, match="looks at the first training batches, of one loader"):
        _from_the_front(iter([1]), "start")
