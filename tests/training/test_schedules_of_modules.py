"""What is scheduled over a run follows its true steps, whatever a module of one's own does; sums do not overflow."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pytorch_lightning import Callback, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader

from distill import Distillation
from distill.callbacks import GradualMagnitudePruning, QuantizationAwareTraining
from distill.core.schedules import Linear
from distill.core.signals import Batch
from distill.core.utils.errors import UserError
from distill.losses import CrossEntropy
from distill.tasks import Plain
from distill.training.optimizer import OptimizerConfig


class Own(Distillation):
    """Lightning's usual way: one optimizer, no schedule of the learning rate."""

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.student.parameters(), lr=0.05, momentum=0.9)


class Manual(Own):
    """Takes its steps itself."""

    def __init__(self, *args: Any, **arguments: Any) -> None:
        super().__init__(*args, **arguments)
        self.automatic_optimization = False


class Frozen(Distillation):
    """No optimizer at all, which Lightning allows."""

    def configure_optimizers(self) -> Any:
        return None


class Spy(Callback):
    """Zeros of the student, whether it rounds, and the weight of the loss, after each step."""

    def __init__(self) -> None:
        self.zeros: list[float] = []
        self.rounds: list[bool] = []

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        layers = pl_module.student[0], pl_module.student[2]
        self.zeros.append(float(torch.cat([(layer.weight == 0).flatten() for layer in layers]).float().mean()))
        self.rounds.append([m.mode for m in pl_module.student if hasattr(m, "mode")] == ["fake"])


def run(module: Distillation, *callbacks: Callback, **arguments: Any) -> None:
    torch.manual_seed(0)
    rows = [(torch.randn(8), torch.tensor(i % 3)) for i in range(80)]
    defaults: dict[str, Any] = {"accelerator": "cpu", "logger": False, "enable_checkpointing": False}
    defaults |= {"enable_progress_bar": False, "enable_model_summary": False, "max_epochs": 2}
    Trainer(**defaults | arguments, callbacks=list(callbacks)).fit(module, DataLoader(rows, batch_size=8))  # type: ignore[arg-type]


def student() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 25), nn.ReLU(), nn.Linear(25, 8), nn.ReLU(), nn.Linear(8, 3))


@pytest.mark.parametrize("kind", [Distillation, Own])
def test_masks_rounding_and_weights_follow_the_runs_steps_with_an_optimizer_of_ones_own(
    kind: type[Distillation],
) -> None:
    spy, weights = Spy(), []
    loss = CrossEntropy(weight=Linear(1.0, 0.0))
    calls = loss.weight

    class Asked(Linear):
        def __call__(self, step: int, total_steps: int) -> float:
            weights.append((step, total_steps))
            return calls(step, total_steps)

    loss.weight = Asked(1.0, 0.0)
    module = kind(student(), Plain(), losses=[loss], optimizer=OptimizerConfig(lr=0.01, warmup=0))
    prune = GradualMagnitudePruning(final_sparsity=0.8, begin=0.0, end=0.5, every_n_steps=1)
    run(module, prune, QuantizationAwareTraining(observe=0.4, begin=0.5), spy)
    # The cubic schedule over the first 10 of 20 steps: 0.8 * (1 - (1 - k / 10)^3) of 400 weights.
    assert spy.zeros == pytest.approx([0.8 * (1 - (1 - min(k, 10) / 10) ** 3) for k in range(1, 21)], abs=0.01)
    assert spy.rounds == [k >= 10 for k in range(1, 21)]
    assert {total for _, total in weights} == {20}
    assert sorted({step for step, _ in weights}) == list(range(20))


@pytest.mark.parametrize(("kind", "found"), [(Manual, "manual"), (Frozen, "no optimizer")])
def test_steps_that_no_schedule_can_follow_are_refused(kind: type[Distillation], found: str) -> None:
    module = kind(student(), Plain())
    before = module.student[0].weight.clone()  # type: ignore[index]
    with pytest.raises(UserError, match=found):
        run(module, GradualMagnitudePruning(final_sparsity=0.8))
    assert torch.equal(before, module.student[0].weight)  # type: ignore[index]


def test_a_module_that_pairs_nothing_is_refused_by_a_compression() -> None:
    from pytorch_lightning.demos.boring_classes import BoringModel

    with pytest.raises(UserError, match=r"GradualMagnitudePruning .* BoringModel"):
        Trainer(
            accelerator="cpu", logger=False, enable_checkpointing=False, callbacks=[GradualMagnitudePruning(0.5)]
        ).fit(BoringModel())


class Words(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table = nn.Embedding(7, 7)

    def forward(self, input: Tensor) -> Tensor:
        return self.table(input)


class Sent(Callback):
    """The losses that are sent back."""

    def __init__(self) -> None:
        self.losses: list[float] = []

    def on_before_backward(self, trainer: Trainer, pl_module: Any, loss: Tensor) -> None:
        self.losses.append(float(loss))


@pytest.mark.parametrize("accumulate", [2, 3])
def test_what_is_sent_back_over_several_batches_is_no_larger_than_a_mean(accumulate: int) -> None:
    # In float16 under a loss scale, the sum over 512 words overflows where their mean does not.
    batches = [Batch({"input": torch.arange(512).reshape(8, 64) % 7}, labels=torch.full((8, 64), 3))] * 6
    task, sent = Plain(lambda raw: raw), Sent()
    arguments: dict[str, Any] = {"accelerator": "cpu", "logger": False, "enable_checkpointing": False, "max_epochs": 1}
    Trainer(**arguments, accumulate_grad_batches=accumulate, callbacks=[sent]).fit(
        module := Distillation(Words(), task, optimizer=OptimizerConfig(lr=1e-6, warmup=0)),
        DataLoader(batches, batch_size=None),  # type: ignore[arg-type]
    )
    with torch.no_grad():
        mean = float(
            nn.functional.cross_entropy(module.student(batches[0].inputs["input"]).flatten(0, 1), torch.full((512,), 3))
        )
    assert len(sent.losses) == 6
    assert all(mean / (4 * accumulate) < loss <= mean * 1.001 for loss in sent.losses)
