"""The promise that no code of a student's own reads or writes a compressed weight past its layer, unseen."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from pytorch_lightning import Trainer
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from distill.callbacks import GradualMagnitudePruning, LowRank, QuantizationAwareTraining, StructuredPruning
from distill.compression import base
from distill.compression.bypass import Held, refuse_bypass
from distill.compression.quantization.ptq import quantize
from distill.compression.quantization.scheme import ActivationScheme, WeightScheme
from distill.compression.quantization.select import choose, swap
from distill.compression.structure.low_rank import replace
from distill.core.forward import forward
from distill.core.signals import Batch, Request
from distill.core.utils.errors import UserError
from distill.tasks.plain import Plain
from distill.training.module import Distillation


class Net(nn.Module):
    """Calls its layers, as it should."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.inner, self.head = nn.Linear(8, 16), nn.Linear(16, 16), nn.Linear(16, 3)

    def forward(self, input: Tensor) -> Tensor:
        return self.head(self.between(self.first(input).relu()).relu())

    def between(self, x: Tensor) -> Tensor:
        return self.inner(x)


class ReadsTheAttribute(Net):
    def between(self, x: Tensor) -> Tensor:
        return F.linear(x, self.inner.weight, self.inner.bias)


class ComputesAPenalty(Net):
    """Which reaches no output."""

    def between(self, x: Tensor) -> Tensor:
        self.penalty = sum(p.square().sum() for p in self.parameters())
        return self.inner(x)


class Named(Net):
    def between(self, x: Tensor) -> Tensor:
        return F.linear(x, dict(self.named_parameters())["inner.weight"])


class Got(Net):
    def between(self, x: Tensor) -> Tensor:
        return F.linear(x, self.get_parameter("inner.weight"))


class Underneath(Net):
    def between(self, x: Tensor) -> Tensor:
        return F.linear(x, self.inner._parameters["weight"])


class Aliased(Net):
    def __init__(self) -> None:
        super().__init__()
        self.alias = [self.inner.weight.data]

    def between(self, x: Tensor) -> Tensor:
        return F.linear(x, self.alias[0])


class Buffered(Net):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("kernel", self.inner.weight.detach())

    def between(self, x: Tensor) -> Tensor:
        return F.linear(x, self.get_buffer("kernel"))


class NothingYet(Net):
    """A branch that begins with a gate of zero, as many do."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Parameter(torch.zeros(()))

    def between(self, x: Tensor) -> Tensor:
        return self.inner(x) + self.gate * F.linear(x, self.inner._parameters["weight"])


class Nothing(Net):
    """A gradient for every parameter, as DDP wants it of those that a pass may leave out."""

    def between(self, x: Tensor) -> Tensor:
        return self.inner(x) + 0.0 * torch.stack([p.sum() for p in self.inner.parameters()]).sum()


class Compares(Net):
    def between(self, x: Tensor) -> Tensor:
        return self.inner(x) * (self.inner._parameters["weight"] > 0)[0]


class InEvalOnly(Net):
    def between(self, x: Tensor) -> Tensor:
        return self.inner(x) if self.training else F.linear(x, self.inner._parameters["weight"])


class InTrainingOnly(Net):
    def between(self, x: Tensor) -> Tensor:
        return F.linear(x, self.inner._parameters["weight"]) if self.training else self.inner(x)


READS = (Named, Got, Underneath, Aliased, Buffered, NothingYet, Compares, InEvalOnly, InTrainingOnly)


class Scales(Net):
    def between(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            self.inner.weight.mul_(0.5)
        return self.inner(x)


class Clamps(Net):
    """Changes nothing yet: all weights lie within."""

    def between(self, x: Tensor) -> Tensor:
        dict(self.inner.named_parameters())["weight"].data.clamp_(-10, 10)
        return self.inner(x)


class Sets(Net):
    def between(self, x: Tensor) -> Tensor:
        self.inner.weight.data = self.inner.weight.data / 2
        return self.inner(x)


class Fills(Net):
    def between(self, x: Tensor) -> Tensor:
        dict(self.inner.named_parameters())["weight"].data.copy_(torch.ones(16, 16))
        return self.inner(x)


class Replaces(Net):
    def between(self, x: Tensor) -> Tensor:
        self.inner.weight = nn.Parameter(self.inner.weight.detach() / 2)
        return self.inner(x)


WRITES = (Scales, Clamps, Sets, Fills, Replaces)


def made(kind: Callable[[], nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    return kind()


def tried(net: nn.Module, held: Held, batch: Batch | None = None) -> None:
    batch = batch or Batch({"input": torch.randn(4, 8)})
    refuse_bypass(net, batch, lambda b: forward(net, b.inputs, Request(logits=True)), held)


def rounding(net: nn.Module) -> Held:
    scheme = WeightScheme(bits=8)
    layers = swap(net, choose(net, weights=scheme, activations=ActivationScheme(), embeddings=scheme, key="q"))
    return Held(rounded=layers, by=dict.fromkeys(layers, "QuantizationAwareTraining"))


def masking(net: nn.Module) -> Held:
    return Held(masked=["inner.weight"], by={"inner.weight": "GradualMagnitudePruning"})


def factors(net: nn.Module) -> Held:
    old = net.get_parameter("inner.weight").detach()
    replace(net, {"inner": 2})
    return Held(replaced={"inner": old}, by={"inner": "LowRank"}, changed=["LowRank"])


@pytest.mark.parametrize("mode", ["float", "fake"])
@pytest.mark.parametrize("kind", READS)
def test_a_rounded_weight_that_is_read_past_its_layer_is_refused(kind: type[Net], mode: Any) -> None:
    net = made(kind)
    held = rounding(net)
    for layer in held.rounded.values():
        layer.mode = mode
    with pytest.raises(
        UserError, match=r"QuantizationAwareTraining = 'inner': the student's code reads its weight past"
    ):
        tried(net, held)


@pytest.mark.parametrize("kind", WRITES)
def test_a_rounded_weight_that_a_pass_writes_is_refused(kind: type[Net]) -> None:
    net = made(kind)
    with pytest.raises(UserError, match=r"QuantizationAwareTraining = 'inner': the forward pass writes this weight"):
        tried(net, rounding(net))


@pytest.mark.parametrize("kind", [Fills, Replaces])
def test_a_masked_weight_whose_zeros_a_pass_writes_is_refused(kind: type[Net]) -> None:
    net = made(kind)
    with pytest.raises(UserError, match=r"Pruning = 'inner\.weight': the forward pass writes this weight, .* masks"):
        tried(net, masking(net))


@pytest.mark.parametrize("kind", [Named, Got, Underneath, Aliased, Replaces])
def test_a_map_that_became_factors_and_is_read_whole_is_refused(kind: type[Net]) -> None:
    net = made(kind)
    with pytest.raises(UserError, match=r"^callbacks\.LowRank( = 'inner')?: "):
        tried(net, factors(net))


HARMLESS = [
    *((kind, rounding) for kind in (Net, Nothing, ReadsTheAttribute, ComputesAPenalty)),
    *((kind, masking) for kind in (Net, *READS, Scales, Clamps, Sets)),
    *((kind, factors) for kind in (Net, ReadsTheAttribute, ComputesAPenalty)),
]


@pytest.mark.parametrize(("kind", "hold"), HARMLESS)
def test_what_does_no_harm_is_let_be(kind: type[Net], hold: Callable[[nn.Module], Held]) -> None:
    net = made(kind)
    tried(net, hold(net))


def test_tables_convolutions_and_tied_heads_are_read_as_they_should(
    bert: Callable[..., Any], gpt2: Callable[..., Any], convnet: Callable[[], nn.Module]
) -> None:
    tokens, images = {"input_ids": torch.arange(6).view(2, 3)}, {"input": torch.randn(2, 1, 8, 8)}
    for model, inputs in ((bert(), tokens), (gpt2(), tokens), (convnet(), images)):
        tried(model, rounding(model), Batch(inputs))


def test_a_table_that_a_hook_reads_is_refused(bert: Callable[..., Any]) -> None:
    model = bert()
    held, table = rounding(model), model.bert.embeddings.word_embeddings
    model.classifier.register_forward_pre_hook(lambda _, args: (args[0] + table._parameters["weight"][0],))
    with pytest.raises(UserError, match=r"'bert\.embeddings\.word_embeddings': the student's code reads"):
        tried(model, held, Batch({"input_ids": torch.arange(6).view(2, 3)}))


def test_a_model_of_transformers_gives_as_many_hidden_states_as_before(bert: Callable[..., Any]) -> None:
    # On a first pass that asks for them it hooks its layers, and remembers that it has.
    batch, request = Batch({"input_ids": torch.arange(6).view(2, 3)}), Request(hidden_states=frozenset((0, 1)))
    expected = forward(bert(), batch.inputs, request).hidden_states
    model = bert()
    refuse_bypass(model, batch, lambda b: forward(model, b.inputs, request), rounding(model))
    found = forward(model.eval(), batch.inputs, request).hidden_states
    assert all(torch.equal(found[layer], expected[layer]) for layer in (0, 1))
    assert len(model(**batch.inputs, output_hidden_states=True).hidden_states) == 2


def test_a_batch_that_cannot_be_cut_is_read_whole() -> None:
    class Flat(Named):
        def forward(self, input: Tensor) -> Tensor:
            return super().forward(input.view(4, 8))

    net = made(Flat)
    with pytest.raises(UserError, match="'inner'"):
        tried(net, rounding(net), Batch({"input": torch.randn(32)}))


def test_a_student_that_does_not_run_is_left_to_fail_by_itself() -> None:
    net = made(Net)
    tried(net, rounding(net), Batch({"input": torch.randn(4, 5)}))


@pytest.mark.parametrize("kind", [Clamps, Sets, Fills])
def test_a_weight_that_a_pass_writes_is_not_quantized_without_training_either(kind: type[Net]) -> None:
    with pytest.raises(UserError, match=r"q = 'inner': the forward pass writes this weight"):
        quantize(made(kind), [torch.randn(4, 8)], activations=ActivationScheme(), key="q")


# ---------------------------------------------------------------------- in a run


class Lively(Net):
    """With all that a pass changes: statistics, counters, what it draws, and what it keeps."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.draws = nn.BatchNorm1d(16), torch.Generator().manual_seed(1)
        self.register_buffer("seen", torch.zeros(()))
        with torch.no_grad():
            self.first.weight.mul_(0.99)
            self.head.bias.add_(0.01)
        self.passes, self.last = 0, torch.zeros(())

    def between(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            self.first.weight.mul_(0.99)
            self.head.bias.add_(0.01)
        self.passes, self.last = self.passes + 1, x.detach().mean()
        self.seen = self.get_buffer("seen") + 1
        noise = torch.rand(x.shape[1], generator=self.draws)
        return F.dropout(self.norm(self.inner(x)), 0.2, self.training) * noise


def trained(kind: Callable[[], nn.Module], *callbacks: Any) -> nn.Module:
    student = made(kind)
    torch.manual_seed(3)
    x, y = torch.randn(24, 8), torch.randint(0, 3, (24,))
    module = Distillation(student=student, task=Plain())
    trainer = Trainer(
        max_steps=4,
        callbacks=list(callbacks),
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        accelerator="cpu",
    )
    loader = DataLoader(list(zip(x, y, strict=True)), batch_size=4)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer.fit(module, loader, loader)
    return student


COMPRESSIONS: dict[str, Callable[[], list[Any]]] = {
    "QuantizationAwareTraining": lambda: [GradualMagnitudePruning(criterion="wanda"), QuantizationAwareTraining()],
    "GradualMagnitudePruning": lambda: [GradualMagnitudePruning()],
    "LowRank": lambda: [LowRank(rank=2)],
}


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (Named, "QuantizationAwareTraining"),
        (Fills, "GradualMagnitudePruning"),
        (Aliased, "LowRank"),
        (Named, "LowRank"),
    ],
)
def test_a_run_is_refused_before_it_trains(kind: type[Net], name: str) -> None:
    with pytest.raises(UserError, match=f"^callbacks.{name}"):
        trained(kind, *COMPRESSIONS[name]())


@pytest.mark.parametrize("name", COMPRESSIONS)
def test_a_run_is_the_same_to_the_bit_as_one_that_was_not_tried(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    one = trained(Lively, *COMPRESSIONS[name]())
    monkeypatch.setattr(base, "refuse_bypass", lambda *_: None)
    other = trained(Lively, *COMPRESSIONS[name]())
    for key, value in other.state_dict().items():
        assert torch.equal(one.state_dict()[key], value), key
    assert one.passes == other.passes
    assert torch.equal(one.last, other.last)
    assert torch.equal(one.draws.get_state(), other.draws.get_state())


def test_importances_of_units_are_of_training_alone(bert: Callable[..., Any]) -> None:
    student = bert(layers=1)
    pruning = StructuredPruning(neurons=0.5, criterion="activation")
    pruning.prepare(student)
    pruning.plan.watch(pruning.plan.parts(student), pruning._activations)
    held = Held(masked=pruning.masked(student)[:1], by=dict.fromkeys(pruning.masked(student), "S"))
    tried(student, held, Batch({"input_ids": torch.arange(6).view(2, 3)}))
    assert pruning._activations.take(1) == {}
