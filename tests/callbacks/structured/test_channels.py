"""Channels of a net are masked in training, come through a resume, and are removed in the end."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning import Callback, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import AutoConfig, AutoModelForImageClassification

import distill
from distill.callbacks import GradualMagnitudePruning, LowRank, QuantizationAwareTraining, StructuredPruning
from distill.core.record import note
from distill.core.signals import Batch
from distill.core.utils.errors import UserError
from distill.export.onnx.runtime import session
from distill.export.targets import TARGETS, write
from distill.losses import CrossEntropy, HintonKL
from distill.models.saved_student import save
from distill.tasks import Plain
from distill.training.module import Distillation
from distill.training.optimizer import OptimizerConfig

Make = Callable[..., Any]


def rows(count: int = 8) -> list[Batch]:
    generator = torch.Generator().manual_seed(0)
    return [
        Batch({"input": torch.randn(4, 1, 12, 12, generator=generator)}, labels=torch.tensor([0, 1, 2, 0]))
        for _ in range(count)
    ]


def pair(student: nn.Module, teacher: nn.Module | None = None) -> Distillation:
    losses = [CrossEntropy(), HintonKL()] if teacher is not None else None
    return Distillation(student, Plain(), teacher, losses, OptimizerConfig(lr=0.01, warmup=0))


def logits(net: nn.Module) -> Tensor:
    with torch.no_grad():
        out: Tensor = net.eval()(rows(1)[0].inputs["input"])
    return out


class Watch(Callback):
    """What is zero after every optimizer step: channels of the stem, wherever they are."""

    def __init__(self) -> None:
        self.gone: list[int] = []

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        trainer.optimizers[0].register_step_post_hook(lambda *_: self.look(pl_module.student))

    def look(self, net: Any) -> None:
        zero = ~net.stem[0].channel_mask
        for part in (net.stem[0].weight, net.stem[1].bias, net.b[1].weight, net.b[0].weight):
            assert torch.equal(part.flatten(1).abs().sum(1) == 0 if part.dim() > 1 else part == 0, zero)
        for part in (net.a[0].weight, net.c[0].weight, net.short[0].weight):
            assert torch.equal(part.abs().sum((0, 2, 3)) == 0, zero)
        self.gone.append(int(zero.sum()))


@pytest.mark.parametrize("criterion", ["magnitude", "taylor"])
@pytest.mark.parametrize("scope", ["layer", "global"])
def test_channels_are_masked_by_schedule_removed_and_saved(
    tmp_path: Path, criterion: Any, scope: Any, conv_nets: Any, fit: Make
) -> None:
    module, watch = pair(conv_nets.Residual(), conv_nets.Residual(16)), Watch()
    pruning = StructuredPruning(
        channels=0.5, criterion=criterion, scope=scope, begin=1, end=5, every_n_steps=2, schedule="linear"
    )
    fit(module, pruning, watch, rows=rows())
    net: Any = module.student
    masked, before = logits(net), sum(p.numel() for p in net.parameters())
    if scope == "layer":
        # A quarter after step 1 + 2 of 1 ... 5, a half after step 5; seen by the step after.
        assert watch.gone == [0, 0, 0, 2, 2, 4, 4, 4]
    note(net, *pruning.finish(net))
    torch.testing.assert_close(logits(net), masked, rtol=1e-6, atol=1e-6)
    assert sum(p.numel() for p in net.parameters()) < 0.5 * before
    assert not [name for name in net.state_dict() if "channel_" in name]
    (step,) = net._compression_steps
    gone = sum(of - len(step["channels"][owner]) for owner, of in (("stem.0", 8), ("a.0", 8), ("c.0", 16), ("d.0", 16)))
    assert gone == 24
    assert step["multiplications"]["after"] < 0.45 * step["multiplications"]["before"]
    save(net, tmp_path / "student")
    loaded = distill.load(tmp_path / "student", conv_nets.Residual())
    assert torch.equal(logits(loaded), logits(net))
    with pytest.raises(UserError, match=r"of which"):
        distill.load(tmp_path / "student", conv_nets.Residual(2))


@pytest.mark.slow
def test_the_smaller_net_is_exported(tmp_path: Path, conv_nets: Any) -> None:
    net = conv_nets.randomize(conv_nets.Inverted()).eval()
    pruning = prepared(net, channels=0.4)
    note(net, *pruning.finish(net))
    batch = Batch(rows(1)[0].inputs, labels=torch.tensor([0, 1, 2, 0]))
    write(TARGETS["onnx"]("vnni"), net, tmp_path, task=Plain(), batches=lambda: [batch])
    (got,) = session(tmp_path / "model.onnx").run(None, {"input": batch.inputs["input"].numpy()})
    torch.testing.assert_close(torch.tensor(got), logits(net), rtol=1e-4, atol=1e-5)


def prepared(net: nn.Module, **arguments: Any) -> StructuredPruning:
    """All that goes is switched off at once."""
    pruning: Any = StructuredPruning(**arguments)
    pruning.prepare(net)
    pruning.plan.find(net, lambda model: [model(rows(1)[0].inputs["input"])])
    pruning.plan.switch_off(net, 1.0)
    return pruning  # type: ignore[no-any-return]


class Stop(Callback):
    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        trainer.should_stop = trainer.global_step >= 5


@pytest.mark.parametrize("criterion", ["magnitude", "taylor"])
def test_a_resumed_run_ends_bit_for_bit_like_the_undisturbed_one(
    tmp_path: Path, criterion: Any, conv_nets: Any, fit: Make
) -> None:
    def pruning() -> StructuredPruning:
        return StructuredPruning(channels=0.5, criterion=criterion, begin=2, end=7, every_n_steps=2)

    same, begin = rows(1) * 8, conv_nets.Residual(4)
    whole, first, rest = pair(copy.deepcopy(begin)), pair(copy.deepcopy(begin)), pair(conv_nets.Residual(4))
    fit(whole, pruning(), rows=same)
    fit(first, pruning(), Stop(), rows=same).save_checkpoint(tmp_path / "five.ckpt")
    last = pruning()
    fit(rest, last, resume=tmp_path / "five.ckpt", rows=same)
    left, right = whole.student.state_dict(), rest.student.state_dict()
    assert left.keys() == right.keys()
    assert all(torch.equal(left[name], right[name]) for name in left)
    assert not first.student.get_buffer("stem.0.channel_mask").all()
    # A trainer that never trained validates the checkpoint, and can finish it.
    fresh, other = pair(conv_nets.Residual(4)), pruning()
    trainer = Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, callbacks=[other])
    data = DataLoader(rows(2), batch_size=None)  # type: ignore[arg-type]
    trainer.validate(fresh, data, ckpt_path=tmp_path / "five.ckpt", verbose=False, weights_only=True)
    masked = logits(fresh.student)
    assert torch.equal(masked, logits(first.student))
    other.finish(fresh.student)
    torch.testing.assert_close(logits(fresh.student), masked, rtol=1e-6, atol=1e-6)


def test_rounding_beside_it_shrinks_along(tmp_path: Path, conv_nets: Any, fit: Make) -> None:
    callbacks = [
        StructuredPruning(channels=0.5, end=4, every_n_steps=1),
        QuantizationAwareTraining(begin=2, freeze_observers=6),
    ]
    module = pair(conv_nets.Residual())
    fit(module, *callbacks, rows=rows())
    net = module.student
    trained = logits(net)
    for callback in callbacks:
        note(net, *callback.finish(net))
    torch.testing.assert_close(logits(net), trained, rtol=1e-5, atol=1e-5)
    save(net, tmp_path / "student")
    assert torch.equal(logits(distill.load(tmp_path / "student", conv_nets.Residual())), logits(net))


def test_what_keeps_channels_is_said_and_a_net_without_any_is_refused(
    conv_nets: Any, fit: Make, caplog: pytest.LogCaptureFixture
) -> None:
    class Normed(nn.Module):
        def __init__(self, hidden: bool) -> None:
            super().__init__()
            self.first, self.norm = nn.Linear(144, 8), nn.LayerNorm(8)
            self.hidden = nn.Linear(8, 6) if hidden else nn.Identity()
            self.head = nn.Linear(6 if hidden else 8, 3)

        def forward(self, input: Tensor) -> Tensor:
            return self.head(self.hidden(self.norm(self.first(input.flatten(1)))).relu())

    with caplog.at_level(logging.WARNING):
        fit(pair(Normed(True)), StructuredPruning(channels=0.5, end=2), rows=rows())
    assert "keeps all of its channels: native_layer_norm in norm" in caplog.text
    with pytest.raises(UserError, match="no channel can be removed: native_layer_norm in norm"):
        fit(pair(Normed(False)), StructuredPruning(channels=0.5, end=2), rows=rows())
    with pytest.raises(UserError, match="this is none of 5 or 6 or 7 or 12"):
        fit(pair(conv_nets.Inverted()), StructuredPruning(channels=0.01, end=2), rows=rows())
    pruning = StructuredPruning(channels=0.5)
    pruning.prepare(net := Normed(True))
    with pytest.raises(UserError, match="found on the first batch, and there was none"):
        pruning.finish(net)


@pytest.mark.parametrize(
    ("arguments", "key"),
    [
        ({"channels": 1.0}, "channels"),
        ({"channels": 0.5, "heads": 0.5}, "channels"),
        ({"channels": 0.5, "layers": 1}, "channels"),
        ({"channels": 0.5, "criterion": "activation"}, "criterion"),
    ],
)
def test_what_does_not_go_with_channels_is_refused_at_once(arguments: dict[str, Any], key: str) -> None:
    with pytest.raises(UserError) as caught:
        StructuredPruning(**arguments)
    assert caught.value.key == f"callbacks.StructuredPruning.{key}"


def test_single_weights_are_pruned_of_the_channels_that_are_left(tmp_path: Path, conv_nets: Any, fit: Make) -> None:
    def both() -> tuple[Callback, ...]:
        channels = StructuredPruning(channels=0.5, criterion="taylor", begin=2, end=6, every_n_steps=2)
        return channels, GradualMagnitudePruning(0.6, begin=1, end=4, every_n_steps=1)

    same, begin = rows(1) * 8, conv_nets.Residual(8)
    whole, first, rest = pair(copy.deepcopy(begin)), pair(copy.deepcopy(begin)), pair(conv_nets.Residual(8))
    callbacks: Any = both()
    fit(whole, *callbacks, rows=same)
    fit(first, *both(), Stop(), rows=same).save_checkpoint(tmp_path / "five.ckpt")
    fit(rest, *both(), resume=tmp_path / "five.ckpt", rows=same)
    left, right = whole.student.state_dict(), rest.student.state_dict()
    assert all(torch.equal(left[name], right[name]) for name in left)
    net: Any = whole.student
    masked = logits(net)
    for callback in callbacks:
        note(net, *callback.finish(net))
    torch.testing.assert_close(logits(net), masked, rtol=1e-6, atol=1e-6)
    _, step = net._compression_steps
    weights = sum(counts["weights"] for counts in step["layers"].values())
    assert weights == sum(m.weight.numel() for m in net.modules() if isinstance(m, nn.Conv2d))
    assert step["actual"] == pytest.approx(0.6, abs=1 / weights)
    save(net, tmp_path / "student")
    assert torch.equal(logits(distill.load(tmp_path / "student", conv_nets.Residual())), logits(net))


@pytest.mark.parametrize(
    "callbacks",
    [
        (StructuredPruning(channels=0.5), GradualMagnitudePruning(granularity="2:4", exclude=["stem"])),
        (GradualMagnitudePruning(0.5), StructuredPruning(channels=0.5)),
    ],
)
def test_two_that_mask_one_weight_otherwise_are_refused(callbacks: Any, conv_nets: Any, fit: Make) -> None:
    with pytest.raises(UserError, match=r"both would mask.*single weights are masked of what StructuredPruning leaves"):
        fit(pair(conv_nets.Residual()), *callbacks, rows=rows())


@pytest.mark.slow
def test_factorized_convolutions_are_trained_lose_channels_and_are_exported(
    tmp_path: Path, conv_nets: Any, fit: Make
) -> None:
    callbacks = LowRank(rank=4), StructuredPruning(channels=0.25, end=4, every_n_steps=1)
    module = pair(conv_nets.Residual())
    fit(module, *callbacks, rows=rows())
    net = module.student
    trained = logits(net)
    for callback in callbacks:
        note(net, *callback.finish(net))
    torch.testing.assert_close(logits(net), trained, rtol=1e-5, atol=1e-5)
    assert net.get_submodule("d.0.down").out_channels == 3
    save(net, tmp_path / "student")
    assert torch.equal(logits(distill.load(tmp_path / "student", conv_nets.Residual())), logits(net))
    batch = Batch(rows(1)[0].inputs, labels=torch.tensor([0, 1, 2, 0]))
    (tmp_path / "onnx").mkdir()
    write(TARGETS["onnx"]("vnni"), net, tmp_path / "onnx", task=Plain(), batches=lambda: [batch])


@pytest.mark.parametrize("family", ["vit", "resnet"])
def test_nets_of_transformers_lose_channels_and_open_by_their_configuration(tmp_path: Path, family: str) -> None:
    sizes: dict[str, Any] = {"num_channels": 1, "num_labels": 3}
    if family == "vit":
        sizes |= {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 10}
        sizes |= {"image_size": 12, "patch_size": 4}
    else:
        sizes |= {"embedding_size": 4, "hidden_sizes": [4, 6], "depths": [1, 1], "layer_type": "basic"}
    net = AutoModelForImageClassification.from_config(AutoConfig.for_model(family, **sizes)).eval()
    x = rows(1)[0].inputs["input"]
    pruning: Any = StructuredPruning(channels=0.5)
    pruning.prepare(net)
    pruning.plan.find(net, lambda model: [model(pixel_values=x).logits])
    pruning.plan.switch_off(net, 1.0)
    with torch.no_grad():
        for weight, factor in pruning.plan.factors(net):
            weight.mul_(factor)
        masked = net(pixel_values=x).logits
        (step,) = pruning.finish(net)
        note(net, step)
        torch.testing.assert_close(net(pixel_values=x).logits, masked, rtol=1e-5, atol=1e-6)
        if family == "vit":  # layer norms and attention keep the stream and the heads
            assert [len(kept) for kept in step["channels"].values()] == [5, 5]
        save(net, tmp_path / "net")
        assert torch.equal(distill.load(tmp_path / "net")(pixel_values=x).logits, net(pixel_values=x).logits)
