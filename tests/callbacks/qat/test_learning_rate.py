"""The learning rate while a student is rounded."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from pytorch_lightning import Callback, Trainer

from distill.callbacks import QuantizationAwareTraining
from distill.core.utils.errors import UserError
from distill.losses import HintonKL
from distill.tasks import TextClassification
from distill.training.module import Distillation

Make = Callable[..., Any]


@pytest.mark.parametrize("begin", [0, 4])
def test_the_learning_rate_is_scaled_while_rounding_and_logged_as_it_is_applied(
    begin: int, batches: Make, module: Make, fit: Make
) -> None:
    class Rates(Callback):
        def __init__(self) -> None:
            self.applied: list[list[float]] = []
            self.logged: list[float] = []

        def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
            def look(optimizer: Any, *_: Any) -> None:
                self.applied.append([group["lr"] for group in optimizer.param_groups])

            trainer.optimizers[0].register_step_pre_hook(look)

        def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
            if trainer.global_step == len(self.logged) + 1:  # the next micro-batch is logged for the same step
                self.logged.append(float(trainer.callback_metrics["train/learning_rate"]))

    plain, scaled = Rates(), Rates()
    for factor, rates in ((1.0, plain), (0.5, scaled)):
        qat = QuantizationAwareTraining(observe=0, begin=begin, lr_factor=factor)
        fit(module(warmup=3), rates, qat, rows=batches(20), accumulate_grad_batches=2)
        assert rates.logged == pytest.approx([first for first, *_ in rates.applied])
    ratios = [
        b / a
        for before, after in zip(plain.applied, scaled.applied, strict=True)
        for a, b in zip(before, after, strict=True)
    ]
    groups = len(plain.applied[0])
    assert ratios == pytest.approx([1.0] * groups * begin + [0.5] * groups * (10 - begin))


def test_a_learning_rate_that_is_not_scheduled_is_not_silently_left_as_it_was(bert: Make, fit: Make) -> None:
    class Unscheduled(Distillation):
        def configure_optimizers(self) -> Any:
            return super().configure_optimizers()["optimizer"]  # type: ignore[call-overload, index]

    model = Unscheduled(bert(), TextClassification(["no", "yes"]), bert(7, layers=2), [HintonKL()])
    with pytest.raises(UserError, match=r"QuantizationAwareTraining\.learning_rate_factor: multiplies"):
        fit(model, QuantizationAwareTraining(lr_factor=0.5))
