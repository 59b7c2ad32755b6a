"""The promises of the average of weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning import Callback, Trainer
from pytorch_lightning.callbacks import ModelCheckpoint
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import BertConfig, BertForSequenceClassification

from distill.callbacks import Determinism, ExponentialMovingAverage, GradualMagnitudePruning, StructuredPruning
from distill.core.signals import Batch
from distill.core.utils.errors import UserError
from distill.losses import CrossEntropy
from distill.tasks import Plain, TextClassification
from distill.training.module import Distillation
from distill.training.optimizer import OptimizerConfig


def make() -> Distillation:
    torch.manual_seed(0)
    student = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.2), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4))
    student[0].bias.requires_grad_(False)
    return Distillation(student, Plain(), None, [CrossEntropy()], OptimizerConfig(lr=0.05, warmup=0))


def fit(
    module: Distillation, *callbacks: Callback, resume: Path | None = None, rows: Any = None, **more: Any
) -> Trainer:
    arguments: dict[str, Any] = {"max_steps": 8, "enable_checkpointing": False} | more
    trainer = Trainer(
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=1,
        callbacks=[Determinism(1), *callbacks],
        val_check_interval=4,
        **arguments,
    )
    x = torch.randn(4, 4, generator=torch.Generator().manual_seed(0))
    loader: Any = DataLoader([(x[i], x[i].argmax()) for i in range(4)] * 16, batch_size=4)
    loader = loader if rows is None else DataLoader(rows, batch_size=None)
    trainer.fit(module, loader, loader, ckpt_path=resume, weights_only=True)
    return trainer


def weights(module: Any) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in module.student.named_parameters()}


class Record(Callback):
    """Weights after every step, and those that validation sees."""

    def __init__(self) -> None:
        self.trained: list[dict[str, Tensor]] = []
        self.validated: list[dict[str, Tensor]] = []

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        self.trained.append(weights(pl_module))

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, *_: Any) -> None:
        if len(self.trained) == trainer.global_step:
            self.trained.append(weights(pl_module))

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: Any) -> None:
        if not trainer.sanity_checking:
            self.validated.append(weights(pl_module))


def expected(trained: list[dict[str, Tensor]], decay: float, begin: int = 0) -> dict[str, Tensor]:
    """In float64, by the formula."""
    average = {name: value.double() for name, value in trained[0].items()}
    for step, now in enumerate(trained[1:], start=1):
        n = step - begin
        d = min(decay, (1 + n) / (10 + n)) if n > 0 else 0.0
        average = {name: d * average[name] + (1 - d) * now[name].double() for name in average}
    return average


@pytest.mark.parametrize(("decay", "begin"), [(0.9, 0), (0.3, 0), (0.0, 0), (0.9, 3), (0.9, 0.5)])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_the_average_is_that_of_the_weights_after_each_optimizer_step(
    decay: float, begin: int | float, accumulate: int
) -> None:
    record, average = Record(), ExponentialMovingAverage(decay, begin)
    fit(make(), average, record, accumulate_grad_batches=accumulate)
    assert len(record.trained) == 9
    found = average.state_dict()
    assert "0.bias" not in found  # is not trained
    for name, value in expected(record.trained, decay, 4 if begin == 0.5 else int(begin)).items():
        if name in found:
            torch.testing.assert_close(found[name].double(), value, rtol=1e-5, atol=1e-7)


def test_validation_sees_the_average_and_training_continues_from_the_weights() -> None:
    record, alone = Record(), Record()
    fit(make(), ExponentialMovingAverage(0.9), record)
    fit(make(), alone)
    assert len(record.validated) == 2
    for step, seen in zip((4, 8), record.validated, strict=True):
        for name, value in expected(record.trained[: step + 1], 0.9).items():
            torch.testing.assert_close(seen[name].double(), value, rtol=1e-5, atol=1e-7)
    for with_average, without in zip(record.trained, alone.trained, strict=True):
        assert all(torch.equal(value, without[name]) for name, value in with_average.items())


@pytest.mark.parametrize("average_first", [False, True])
def test_pruned_weights_are_exactly_zero_in_the_average_at_every_validation(average_first: bool) -> None:
    seen: list[tuple[Tensor, Tensor]] = []

    class Look(Callback):
        def on_validation_epoch_start(self, trainer: Trainer, pl_module: Any) -> None:
            if not trainer.sanity_checking:
                seen.extend(
                    (pl_module.student[i].weight.clone(), pl_module.student[i].weight_mask.clone()) for i in (0, 3)
                )

    pair = [ExponentialMovingAverage(0.9), GradualMagnitudePruning(0.5, end=8, every_n_steps=1, regrow=0.2)]
    module = make()
    fit(module, *(pair if average_first else pair[::-1]), Look())
    assert len(seen) == 4
    for weight, mask in seen:
        assert not weight[~mask].any()
        assert (~mask).any()
        assert weight[mask].any()


def test_pruned_weights_are_exactly_zero_in_the_average_after_every_step() -> None:
    seen: list[bool] = []
    average = ExponentialMovingAverage(0.9)

    class Look(Callback):
        def on_train_batch_end(self, trainer: Trainer, pl_module: Any, *_: Any) -> None:
            now = average.state_dict()
            seen.extend(not now[f"{i}.weight"][~pl_module.student[i].weight_mask].any() for i in (0, 3))

    pruning = GradualMagnitudePruning(0.5, end=8, every_n_steps=1, regrow=0.2)
    fit(make(), pruning, average, Look(), limit_val_batches=0)
    assert seen == [True] * 16


def test_the_finished_student_holds_the_average() -> None:
    module, record, average = make(), Record(), ExponentialMovingAverage(0.9)
    pruning = GradualMagnitudePruning(0.5, end=6, every_n_steps=1)
    trainer = fit(module, pruning, average, record)
    found = average.state_dict()
    average.finish(module.student)
    pruning.finish(module.student)
    for name, value in found.items():
        assert torch.equal(module.student.get_parameter(name), value)
    assert int((module.student[0].weight == 0).sum() + (module.student[3].weight == 0).sum()) == 48  # type: ignore[index, union-attr]
    before = weights(module)
    trainer.validate(module, trainer.train_dataloader, verbose=False)
    assert all(torch.equal(value, before[name]) for name, value in weights(module).items())


def test_a_checkpoint_holds_the_weights_and_the_average_of_its_step(tmp_path: Path) -> None:
    record, average = Record(), ExponentialMovingAverage(0.9)
    keep = ModelCheckpoint(tmp_path, filename="{step}", save_top_k=-1, monitor="val/accuracy")
    fit(make(), average, record, keep, enable_checkpointing=True)
    saved = torch.load(tmp_path / "step=4.ckpt", weights_only=True)
    for name, value in record.trained[4].items():
        assert torch.equal(saved["state_dict"][f"student.{name}"], value)
    other, module = ExponentialMovingAverage(0.9), make()
    other.load_state_dict(saved["callbacks"][average.state_key])
    other.finish(module.student)
    for name, value in expected(record.trained[:5], 0.9).items():
        torch.testing.assert_close(weights(module)[name].double(), value, rtol=1e-5, atol=1e-7)


def test_an_error_in_validation_leaves_the_student_its_own_weights() -> None:
    class Fail(Callback):
        def on_validation_epoch_start(self, trainer: Trainer, pl_module: Any) -> None:
            if not trainer.sanity_checking:
                raise RuntimeError("no")

    module, record = make(), Record()
    with pytest.raises(RuntimeError, match="no"):
        fit(module, ExponentialMovingAverage(0.9), record, Fail())
    assert all(torch.equal(value, record.trained[4][name]) for name, value in weights(module).items())


@pytest.mark.parametrize(
    ("wrong", "key"), [({"decay": 1.0}, "decay"), ({"decay": -0.1}, "decay"), ({"begin": 1.5}, "begin")]
)
def test_what_is_out_of_range_is_refused(wrong: Any, key: str) -> None:
    with pytest.raises(UserError) as error:
        ExponentialMovingAverage(**wrong)
    assert error.value.key == f"callbacks.ExponentialMovingAverage.{key}"


class Tied(nn.Module):
    """A table that the last but one layer reads too."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(4, 8)
        self.last = nn.Linear(8, 4, bias=False)
        self.last.weight = self.table.weight
        self.head = nn.Linear(4, 4)

    def forward(self, input: Tensor) -> Tensor:
        return self.head(self.last(self.table(input.argmax(-1))))


def test_a_weight_that_is_masked_under_its_second_name_is_zero_in_the_average() -> None:
    module, average = make(), ExponentialMovingAverage(0.9)
    module.student = Tied()
    pruning = GradualMagnitudePruning(0.5, schedule="one_shot", begin=4, include=["last"])
    fit(module, pruning, average, limit_val_batches=0)
    kept = module.student.last.weight_mask
    assert int((~kept).sum()) == 16
    found = average.state_dict()["table.weight"]
    assert not found[~kept].any()
    assert found[kept].all()


def test_what_is_about_to_be_removed_is_zero_in_the_average() -> None:
    seen: list[dict[str, Tensor]] = []

    class Look(Callback):
        def on_validation_epoch_start(self, trainer: Trainer, pl_module: Any) -> None:
            seen.append(weights(pl_module))

    torch.manual_seed(0)
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    student = BertForSequenceClassification(BertConfig(vocab_size=9, max_position_embeddings=8, **sizes))
    task = TextClassification(["LABEL_0", "LABEL_1"])
    module = Distillation(student, task, None, [CrossEntropy()], OptimizerConfig(lr=0.05, warmup=0))
    ids = torch.arange(1, 9).view(2, 4)
    rows = [Batch({"input_ids": ids, "attention_mask": torch.ones_like(ids)}, labels=torch.tensor([0, 1]))] * 16
    pruning = StructuredPruning(neurons=0.5, schedule="one_shot", begin=4)
    fit(module, pruning, ExponentialMovingAverage(0.9), Look(), rows=rows)
    layer = student.bert.encoder.layer[0]
    gone = ~layer.neuron_mask
    assert int(gone.sum()) == 4
    last = seen[-1]
    assert not last["bert.encoder.layer.0.intermediate.dense.weight"][gone].any()
    assert not last["bert.encoder.layer.0.output.dense.weight"][:, gone].any()
    assert last["bert.encoder.layer.0.intermediate.dense.weight"][~gone].all()
