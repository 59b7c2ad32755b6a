"""A net of convolutions is trained with what is rounded between them, and resumes with it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning import Callback, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader

from distill.callbacks import QuantizationAwareTraining
from distill.compression.quantization.layers import quantized_layers
from distill.compression.quantization.outputs import points_of
from distill.core.signals import Batch
from distill.core.utils.errors import UserError
from distill.losses import CrossEntropy
from distill.tasks import Plain
from distill.training.module import Distillation
from distill.training.optimizer import OptimizerConfig

Make = Callable[..., Any]


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.a, self.b = (nn.Conv2d(n, 4, 3, padding=1) for n in (1, 4, 4))
        self.norm, self.head = nn.BatchNorm2d(4), nn.Linear(4, 3)

    def forward(self, input: Tensor) -> Tensor:
        x = self.stem(input).relu()
        y: Tensor = self.head((self.norm(self.b(self.a(x).relu())) + x).relu().mean((2, 3)))
        return y


def images(count: int) -> list[Batch]:
    generator = torch.Generator().manual_seed(1)
    made = []
    for index in range(count):
        x = torch.randn(8, 1, 5, 5, generator=generator)
        ids = list(range(8 * index, 8 * index + 8))
        made.append(Batch({"input": x}, labels=(x.mean((1, 2, 3)) * 9).round().long().clamp(-1, 1) + 1, ids=ids))
    return made


@pytest.fixture
def batches() -> Make:
    """What :func:`fit` reads."""
    return images


@pytest.fixture
def train(fit: Make) -> Make:
    def run(*more: Callback, resume: Any = None, done: int = 0, qat: Any = None) -> Distillation:
        torch.manual_seed(0)
        model = Distillation(Net(), Plain(), None, [CrossEntropy()], OptimizerConfig(lr=1e-2, warmup=0))
        rows = images(10)
        qat = qat or QuantizationAwareTraining(observe=1, begin=4, freeze_observers=8)
        checked = {"num_sanity_val_steps": 1, "limit_val_batches": 1}  # its first pass is one of inference
        fit(model, qat, *more, rows=rows[done:] + rows[:done], resume=resume, **checked)
        qat.finish(model.student)
        return model

    return run


@pytest.mark.parametrize("after", [1, 3, 6])
def test_a_resumed_run_ends_with_the_bits_of_an_undisturbed_one(tmp_path: Path, after: int, train: Make) -> None:
    class Keep(Callback):
        def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
            if trainer.global_step == after:
                trainer.save_checkpoint(tmp_path / "c.ckpt")

    whole, resumed = train(Keep()), train(resume=tmp_path / "c.ckpt", done=after)
    assert len(points_of(quantized_layers(whole.student))) == 3
    for name, value in whole.student.state_dict().items():
        assert torch.equal(resumed.student.state_dict()[name], value), name


def test_what_is_trained_is_what_is_saved_and_it_differs_from_a_net_that_rounds_inputs_alone(train: Make) -> None:
    class Keep(Callback):
        def on_train_end(self, trainer: Trainer, pl_module: Any) -> None:
            with torch.no_grad():
                said.append(pl_module.student.eval()(images(1)[0].inputs["input"]))

    said: list[Tensor] = []
    both = [train(Keep(), qat=QuantizationAwareTraining(observe=1, begin=4, outputs=how)) for how in ("auto", "none")]
    with torch.no_grad():
        saved = [model.student.eval()(images(1)[0].inputs["input"]) for model in both]
    assert torch.equal(said[0], saved[0])
    assert torch.equal(said[1], saved[1])
    assert not torch.equal(*saved)


def test_a_checkpoint_is_validated_with_it_by_a_trainer_that_never_trained(tmp_path: Path, train: Make) -> None:
    class Keep(Callback):
        def on_train_batch_end(self, trainer: Trainer, pl_module: Any, *_: Any) -> None:
            if trainer.global_step == 9:
                trainer.save_checkpoint(tmp_path / "nine.ckpt")
                with torch.no_grad():
                    said.append(pl_module.student.eval()(images(1)[0].inputs["input"]))
                pl_module.student.train()

    said: list[Tensor] = []
    train(Keep())
    fresh = Distillation(Net(), Plain(), None, [CrossEntropy()], OptimizerConfig(lr=1e-2))
    qat = QuantizationAwareTraining(observe=1, begin=4, freeze_observers=8)
    trainer = Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, callbacks=[qat])
    loader = DataLoader(images(2), batch_size=None)
    trainer.validate(fresh, loader, ckpt_path=tmp_path / "nine.ckpt", verbose=False, weights_only=True)
    with torch.no_grad():
        assert torch.equal(fresh.student.eval()(images(1)[0].inputs["input"]), said[0])


def test_the_setting_is_one_of_two() -> None:
    with pytest.raises(UserError, match="outputs"):
        QuantizationAwareTraining(outputs="all")  # type: ignore[arg-type]
