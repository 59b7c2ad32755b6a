"""The promises of the time line."""

from __future__ import annotations

import pytest
from torch import nn

from distill.callbacks import QuantizationAwareTraining
from distill.tasks import Plain
from distill.training.module import Distillation
from distill.training.optimizer import OptimizerConfig
from distill.workflows.timeline import timeline


def test_the_learning_rate_is_the_one_that_quantization_aware_training_steps_with(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    optimizer = OptimizerConfig(lr=0.5, warmup=0, schedule="constant")
    module = Distillation(nn.Linear(2, 2), Plain(), optimizer=optimizer)
    monkeypatch.setattr(Distillation, "total_steps", 10)
    callback = QuantizationAwareTraining(begin=0.4, lr_factor=0.1)
    rates = timeline(module, [callback], [0, 3, 4, 9])["learning rate"]
    assert rates == pytest.approx([0.5, 0.5, 0.05, 0.05])
