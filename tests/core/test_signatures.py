"""The promise that a class of one's own with a wrong signature is told before training."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from pytorch_lightning import Callback, Trainer
from torch import nn
from torch.utils.data import DataLoader

from distill.compression.base import Compression
from distill.core.signals import Needs, Request
from distill.core.step_callback import StepCallback
from distill.core.utils.errors import UserError
from distill.losses import CrossEntropy, DistillationLoss, HintonKL
from distill.tasks import Plain
from distill.training.module import Distillation
from distill.workflows.job.lightning_limits import check_callbacks


class Nothing(Compression):
    order: ClassVar[int] = 0

    def prepare(self, student: nn.Module) -> None: ...

    def finish(self, student: nn.Module) -> list[dict[str, Any]]:
        return []


class Forgets(Nothing):
    def target_reached(self, step: int) -> bool:  # type: ignore[override]
        return True


class Rate(StepCallback):
    def learning_rate_factor(self, step: int, total_steps: int, peak: float) -> float:  # type: ignore[override]
        return peak


class Hook(Callback):
    def on_train_epoch_end(self, trainer: Trainer) -> None: ...  # type: ignore[override]


class Disorderly(Nothing):
    order = None  # type: ignore[assignment]


class Wider(Nothing):
    """As a contract allows: more arguments that need not be given, or all in one."""

    def target_reached(self, step: int, total_steps: int, slack: int = 0) -> bool:
        return step + slack >= total_steps

    def on_train_end(self, *args: Any) -> None: ...


WRONG = {
    Forgets: r"target_reached must take \(step, total_steps\), and takes \(step\)\. write def target_reached\(self, st",
    Rate: "learning_rate_factor must take",
    Hook: r"on_train_epoch_end must take \(trainer, pl_module\), and takes \(trainer\)",
    Disorderly: r"nothing says when it compresses beside others\. give the class order = 0",
}


@pytest.mark.parametrize("kind", WRONG, ids=lambda kind: kind.__name__)
def test_a_callback_of_ones_own_is_judged_when_it_is_built(kind: type[Callback]) -> None:
    with pytest.raises(UserError, match=rf"callbacks\.1 = '{kind.__name__}': {WRONG[kind]}"):
        check_callbacks([Wider(), kind()])


@pytest.mark.parametrize("kind", WRONG, ids=lambda kind: kind.__name__)
def test_a_trainer_of_ones_own_tells_it_before_the_first_batch(kind: type[Callback], tmp_path: Path) -> None:
    module = Distillation(nn.Linear(4, 2), Plain())
    given: dict[str, Any] = {"logger": False, "enable_checkpointing": False, "default_root_dir": tmp_path}
    trainer = Trainer(max_steps=1, accelerator="cpu", callbacks=[kind()], enable_progress_bar=False, **given)
    with pytest.raises(UserError, match=WRONG[kind]):
        trainer.fit(module, DataLoader([(torch.zeros(4), torch.tensor(0))]))
    assert trainer.global_step == 0


class Short(HintonKL):
    def forward(self, student: Any, teacher: Any) -> Any: ...  # type: ignore[override]


class Half(DistillationLoss):
    @property
    def needs(self) -> Needs:
        return Needs(student=Request(logits=True))

    def bind(self, student: Any) -> None: ...  # type: ignore[override]

    def forward(self, student: Any, teacher: Any, batch: Any) -> Any: ...


@pytest.mark.parametrize(("loss", "said"), [(Short(), r"forward must take \(student, tea"), (Half(), "bind must take")])
def test_a_loss_of_ones_own_is_judged_before_a_model_is_loaded(loss: DistillationLoss, said: str) -> None:
    with pytest.raises(UserError, match=rf"model\.losses\.1 = '{type(loss).__name__}': {said}"):
        Distillation("./nowhere", "text-classification", losses=[CrossEntropy(), loss])


class Task(Plain):
    def update(self, metrics: Any, logits: Any) -> None: ...  # type: ignore[override]


def test_a_task_of_ones_own_is_judged_before_a_model_is_loaded() -> None:
    with pytest.raises(UserError, match=r"model\.task = 'Task': update must take \(metrics, logits, batch\)"):
        Distillation("./nowhere", Task())
