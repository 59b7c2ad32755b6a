"""A LightningModule of one's own takes the compressions: it names what is compressed, and Lightning trains it."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import ModelCheckpoint
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader

import distill
from distill import ActivationScheme, UserError
from distill.callbacks import (
    BestCheckpoint,
    ExponentialMovingAverage,
    GradualMagnitudePruning,
    QuantizationAwareTraining,
    StructuredPruning,
)
from distill.core.trained_module import batch_of

ALL = [".*"]


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 20), nn.ReLU(), nn.Linear(20, 10), nn.ReLU(), nn.Linear(10, 3))


class Plain(LightningModule):
    """As anybody writes one; nothing in it is of this package."""

    def __init__(self, optimizer: Callable[..., Any] = torch.optim.AdamW, **settings: Any) -> None:
        super().__init__()
        self.backbone, self.optimizer, self.settings = net(), optimizer, {"lr": 0.01} | settings

    def compressed_module(self) -> nn.Module:
        return self.backbone

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y = batch
        return cross_entropy(self.backbone(x), y)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        x, y = batch
        self.log("val/accuracy", (self.backbone(x).argmax(-1) == y).float().mean())

    def configure_optimizers(self) -> Any:
        optimizer = self.optimizer(self.backbone.parameters(), **self.settings)
        scheduler = LambdaLR(optimizer, lambda step: 1.0)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


class Named(Plain):
    """Names it by the attribute alone."""

    compressed_module = None  # type: ignore[assignment]

    def __init__(self) -> None:
        super().__init__()
        self.student = self.backbone


class ByHand(Plain):
    """Steps itself, after so many batches."""

    def __init__(self, accumulate: int = 2, steps: int | None = 10, times: int = 1, optimizers: int = 1) -> None:
        super().__init__()
        self.automatic_optimization, self.accumulate, self.times, self.count = False, accumulate, times, optimizers
        if steps is not None:
            self.total_steps = steps

    def training_step(self, batch: Any, batch_idx: int) -> None:  # type: ignore[override]
        found: Any = self.optimizers()
        for optimizer in found if isinstance(found, list) else [found]:
            self.manual_backward(super().training_step(batch, batch_idx) / self.accumulate)
            if (batch_idx + 1) % self.accumulate == 0:
                for _ in range(self.times):
                    optimizer.step()
                optimizer.zero_grad()

    def configure_optimizers(self) -> Any:
        return [torch.optim.SGD(self.backbone.parameters(), lr=0.05, momentum=0.9) for _ in range(self.count)]


class Spy(Callback):
    """After each batch: the step, the zeros of the weights, whether they are rounded, the learning rate."""

    def __init__(self) -> None:
        self.seen: dict[int, tuple[float, bool]] = {}
        self.rates: list[float] = []

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        layers = [layer for layer in pl_module.backbone if isinstance(layer, nn.Linear)]
        zeros = float(torch.cat([(layer.weight == 0).flatten() for layer in layers]).float().mean())
        self.seen[trainer.global_step] = zeros, [getattr(layer, "mode", "") for layer in layers] == ["fake"] * 3
        self.rates.append(trainer.optimizers[0].param_groups[0]["lr"])


def loader() -> Any:
    x = torch.randn(80, 6, generator=torch.Generator().manual_seed(1))
    return DataLoader([(row, row[:3].argmax()) for row in x], batch_size=8)  # type: ignore[arg-type]


def run(module: LightningModule, *more: Callback, resume: Any = None, **settings: Any) -> Trainer:
    quiet: dict[str, Any] = {"accelerator": "cpu", "logger": False, "enable_checkpointing": False, "max_epochs": 2}
    quiet |= {"enable_progress_bar": False, "enable_model_summary": False}
    trainer = Trainer(**quiet | settings, callbacks=list(more))
    torch.manual_seed(3)
    trainer.fit(module, loader(), loader(), ckpt_path=resume, weights_only=True)
    return trainer


def prune(**settings: Any) -> GradualMagnitudePruning:
    return GradualMagnitudePruning(0.8, **{"begin": 0.0, "end": 0.5, "every_n_steps": 1, "include": ALL} | settings)


def qat(**settings: Any) -> QuantizationAwareTraining:
    return QuantizationAwareTraining(observe=0.4, begin=0.5, include=ALL, activations=ActivationScheme(), **settings)


def cubic(step: int, last: int) -> float:
    return 0.8 * (1 - (1 - min(step, last) / last) ** 3)


@pytest.mark.parametrize("kind", [Plain, Named])
def test_masks_and_rounding_follow_the_schedule_and_the_finished_student_is_what_is_saved(
    kind: type[Plain], tmp_path: Path
) -> None:
    module, spy = kind(), Spy()
    trainer = run(module, prune(), qat(lr_factor=0.1), spy)
    assert {step: zeros for step, (zeros, _) in spy.seen.items()} == pytest.approx(
        {step: cubic(step, 10) for step in range(1, 21)}, abs=0.01
    )
    assert [rounds for _, rounds in spy.seen.values()] == [step >= 10 for step in range(1, 21)]
    assert spy.rates == pytest.approx([0.01 if step < 10 else 0.001 for step in range(1, 21)])
    done = distill.finish(trainer, tmp_path / "student")
    assert done.student is module.backbone
    assert [step["kind"] for step in done.compression] == ["sparsity", "quantize"]
    x, y = (torch.stack(part) for part in zip(*loader().dataset, strict=True))
    assert done.scores["val/accuracy"] == pytest.approx(float((done.student(x).argmax(-1) == y).float().mean()))
    assert torch.equal(distill.load(tmp_path / "student", net())(x), done.student(x))


def test_what_can_be_seen_of_a_batch_is_what_a_student_is_tried_with() -> None:
    x, mask = torch.ones(2, 3), torch.tensor([[1, 1, 0], [1, 0, 0]])
    text = batch_of(Plain(), {"input_ids": x, "attention_mask": mask, "labels": torch.zeros(2), "name": "a"})
    assert (text.inputs.keys(), text.tokens is not None and text.tokens.tolist()) == (
        {"input_ids", "attention_mask"},
        [[True, True, False], [True, False, False]],
    )
    assert batch_of(Plain(), (x, torch.zeros(2))).inputs["input"] is x
    assert batch_of(Plain(), "nothing").inputs == {}


def test_gradients_of_accumulated_batches_are_as_lightning_makes_them() -> None:
    spy = Spy()
    run(Plain(), prune(criterion="movement", begin=1), spy, accumulate_grad_batches=2)
    assert max(spy.seen) == 10
    assert spy.seen[10][0] == pytest.approx(0.8, abs=0.01)


@pytest.mark.parametrize("criterion", ["wanda", "movement"])
def test_a_resumed_training_has_the_same_bits(criterion: str, tmp_path: Path) -> None:
    def callbacks() -> list[Any]:
        return [prune(criterion=criterion, begin=2, end=0.9), qat(), ExponentialMovingAverage(0.9)]

    whole = Plain()
    keep = ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=10, save_top_k=-1)
    run(whole, *callbacks(), keep, enable_checkpointing=True)
    again = Plain()
    run(again, *callbacks(), resume=tmp_path / "step=10.ckpt")
    for (name, one), other in zip(whole.state_dict().items(), again.state_dict().values(), strict=True):
        assert torch.equal(one, other), name


def test_the_best_checkpoint_is_one_after_the_targets(tmp_path: Path) -> None:
    keep = BestCheckpoint(dirpath=tmp_path, monitor="val/accuracy", mode="max", filename="{step}")
    trainer = run(Plain(), prune(end=0.9), keep, enable_checkpointing=True)
    done = distill.finish(trainer)
    assert (done.step, done.unfinished) == (20, [])  # validated at 10 and 20, and small at 18


def test_the_best_checkpoint_may_be_an_earlier_one(tmp_path: Path) -> None:
    weights: dict[int, Tensor] = {}

    class Worse(Plain):
        """Its scores fall."""

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.log("val/accuracy", torch.tensor(1 / (1 + self.global_step)))
            weights[self.global_step] = self.backbone[0].weight.detach().clone()

    keep = BestCheckpoint(dirpath=tmp_path, monitor="val/accuracy", mode="max", filename="{step}")
    trainer = run(Worse(), prune(end=0.4), keep, enable_checkpointing=True)
    done = distill.finish(trainer)
    assert (done.step, done.steps, done.unfinished) == (10, 20, [])
    assert torch.equal(done.student[0].weight, weights[10])  # type: ignore[index]


@pytest.mark.parametrize("accumulate", [1, 2])
def test_steps_taken_by_hand_are_followed_where_their_number_is_said(accumulate: int) -> None:
    spy, total = Spy(), 20 // accumulate
    run(ByHand(accumulate, total), prune(), qat(), spy)
    expected = {step: cubic(step, total // 2) for step in range(1, total + 1)}
    assert {step: zeros for step, (zeros, _) in spy.seen.items() if step} == pytest.approx(expected, abs=0.01)
    assert [rounds for step, (_, rounds) in spy.seen.items() if step] == [s >= total // 2 for s in range(1, total + 1)]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"steps": None}, "ByHand has manual optimization.*self.total_steps"),
        ({"optimizers": 2}, "ByHand has 2 optimizers"),
        ({"steps": 2.5}, r"total_steps = 2\.5: must be a whole number"),
        ({"times": 3}, "takes 3 optimizer steps in one batch"),
        ({"steps": 21}, "total_steps = 21: the run takes 20 optimizer steps at the most"),  # one for each batch
    ],
)
def test_steps_that_no_schedule_can_follow_are_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        run(ByHand(**settings), prune())


@pytest.mark.parametrize(
    ("module", "said"),
    [
        (ByHand(2, 15), "took 10 optimizer steps, and not 15, as self.total_steps says: .* ended at step 10 of 15"),
        (ByHand(2, 5), "took 10 optimizer steps, and not 5, .* at its end from step 5 on"),
        (ByHand(2, 10), None),
        (Plain(), None),
    ],
)
def test_a_schedule_over_another_number_of_steps_than_the_run_took_is_reported(
    module: Plain, said: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    narrow = StructuredPruning(channels=0.5, begin=0.1, end=0.3, every_n_steps=1)  # has an end of its own
    run(module, narrow, prune(begin=0.4))
    warned = [one.message for one in caplog.records if one.name.startswith("distill")]
    assert len(warned) == (said is not None)
    assert said is None or re.search(said, warned[0])


def test_a_count_of_ones_own_beside_lightnings_steps_is_held_to_what_there_can_be() -> None:
    module = Plain()
    module.total_steps = 7  # type: ignore[assignment]
    with pytest.raises(UserError, match="total_steps = 7: the run takes 6 optimizer steps at the most"):
        run(module, prune(), max_steps=6)


@pytest.mark.parametrize("kind", [Plain, ByHand])
@pytest.mark.parametrize("pace", [{}, {"interval": "epoch"}, {"interval": "step", "frequency": 2}])
def test_a_scheduler_that_does_not_count_steps_cannot_scale_the_learning_rate(
    kind: type[Plain], pace: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def configure(module: Any) -> Any:
        optimizer = torch.optim.SGD(module.backbone.parameters(), lr=0.01)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": LambdaLR(optimizer, lambda _: 1.0), **pace}}

    monkeypatch.setattr(kind, "configure_optimizers", configure)
    with pytest.raises(UserError, match=r"learning_rate_factor: multiplies.*\"interval\": \"step\""):
        run(kind(), qat(lr_factor=0.1))
    run(kind(), qat(), max_epochs=1)


def test_a_closure_that_is_called_many_times_a_step_leaves_the_zeros_zero() -> None:
    spy = Spy()
    run(Plain(torch.optim.LBFGS, lr=0.1, max_iter=4), prune(), spy)
    assert {step: zeros for step, (zeros, _) in spy.seen.items()} == pytest.approx(
        {step: cubic(step, 10) for step in range(1, 21)}, abs=0.01
    )


@pytest.mark.parametrize("label", ["target", "labels"])
def test_what_a_student_cannot_be_called_with_is_said_before_channels_are_followed(label: str) -> None:
    class Mapped(Plain):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return cross_entropy(self.backbone(batch["image"]), batch[label])

    rows = [{"image": x, label: y} for x, y in loader().dataset]
    quiet: dict[str, Any] = {"accelerator": "cpu", "logger": False, "enable_checkpointing": False, "max_epochs": 1}
    narrow = StructuredPruning(channels=0.5, begin=0.1, end=0.5, every_n_steps=1)
    trainer = Trainer(**quiet, enable_progress_bar=False, limit_val_batches=0, callbacks=[narrow])
    module, data = Mapped(), DataLoader(rows, batch_size=8)  # type: ignore[arg-type, var-annotated]
    if label == "labels":
        trainer.fit(module, data)
        assert distill.finish(trainer).student[0].out_features == 10  # type: ignore[index]
        return
    with pytest.raises(UserError, match=r"channels: .* image and target of a batch .* called labels"):
        trainer.fit(module, data)


def test_what_names_nothing_or_itself_is_refused() -> None:
    class Nothing(Plain):
        def compressed_module(self) -> Any:
            return None

    class Itself(Plain):
        def compressed_module(self) -> nn.Module:
            return self

    with pytest.raises(UserError, match=r"Nothing has none.*compressed_module"):
        run(Nothing(), prune())
    with pytest.raises(UserError, match="the LightningModule itself"):
        run(Itself(), qat())


def test_a_student_that_reads_a_weight_past_its_layer_is_refused() -> None:
    class Aside(nn.Sequential):
        def forward(self, input: Tensor) -> Tensor:
            weight = dict(self.named_parameters())["2.weight"]
            return super().forward(input) + 0.1 * weight.sum()

    module = Plain()
    module.backbone = Aside(*net())
    with pytest.raises(UserError, match="reads its weight past the layer"):
        run(module, qat())
