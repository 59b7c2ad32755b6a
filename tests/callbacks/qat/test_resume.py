"""Quantization-aware training resumes from a checkpoint, and is validated from one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning import Callback, Trainer
from torch import Tensor

from distill.callbacks import QuantizationAwareTraining
from distill.compression.quantization.scheme import ActivationScheme, WeightScheme
from distill.core.utils.errors import UserError
from distill.training.module import Distillation

Make = Callable[..., Any]

LEARNED = WeightScheme(bits=4, learned=True)
KMEANS = WeightScheme(bits=3, format="kmeans")


@pytest.mark.parametrize("weights", [WeightScheme(), LEARNED, KMEANS], ids=["int8", "learned", "kmeans"])
@pytest.mark.parametrize("after", [2, 4, 7])
def test_a_resumed_run_ends_with_the_bits_of_an_undisturbed_one(
    tmp_path: Path, after: int, weights: WeightScheme, batches: Make, module: Make, fit: Make
) -> None:
    class Keep(Callback):
        def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
            if trainer.global_step == after:
                trainer.save_checkpoint(tmp_path / "c.ckpt")

    def run(*more: Callback, resume: Any = None) -> Distillation:
        model = module()
        rows, done = batches(10), 0 if resume is None else after
        rows = rows[done:] + rows[:done]  # a plain loader begins anew
        qat = QuantizationAwareTraining(weights, observe=1, begin=4, freeze_observers=8, lr_factor=0.5)
        fit(model, qat, *more, rows=rows, resume=resume)
        qat.finish(model.student)
        return model

    whole, resumed = run(Keep()), run(resume=tmp_path / "c.ckpt")
    for name, value in whole.student.state_dict().items():
        assert torch.equal(resumed.student.state_dict()[name], value), name


def test_a_module_may_be_fitted_twice(module: Make, fit: Make) -> None:
    model, qat = module(), QuantizationAwareTraining()
    fit(model, qat, max_steps=3)
    fit(model, qat, max_steps=3)
    assert qat.finish(model.student)[0]["modules"]
    with pytest.raises(UserError, match="is quantized already"):
        fit(model, QuantizationAwareTraining())


@pytest.mark.parametrize("begin", [4, 10])
def test_a_checkpoint_is_validated_as_it_was_by_a_trainer_that_never_trained(
    tmp_path: Path,
    begin: int,
    bert: Make,
    batches: Make,
    module: Make,
    loader: Make,
    fit: Make,
    layer: Make,
    predicted: Make,
) -> None:
    def qat() -> QuantizationAwareTraining:
        two = WeightScheme(bits=2)
        return QuantizationAwareTraining(two, ActivationScheme(bits=2), two, begin=begin, freeze_observers=10)

    class Keep(Callback):
        def on_train_batch_end(self, trainer: Trainer, pl_module: Any, *_: Any) -> None:
            if trainer.global_step == 9:
                trainer.save_checkpoint(tmp_path / "nine.ckpt")
                expected.append(predicted(pl_module.student))
                pl_module.student.train()

    expected: list[Tensor] = []
    fit(module(), qat(), Keep())
    fresh = module(bert(3))
    trainer = Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, callbacks=[qat()])
    trainer.validate(fresh, loader(batches(1)), ckpt_path=tmp_path / "nine.ckpt", verbose=False, weights_only=True)
    assert layer(fresh.student).mode == ("fake" if begin == 4 else "float")
    assert torch.equal(predicted(fresh.student), expected[0])
