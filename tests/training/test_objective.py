"""A run whose logits are computed a block at a time trains and scores as one that computes all of them."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from pytorch_lightning import Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import LlamaConfig, LlamaForCausalLM

from distill import Batch, Distillation, OptimizerConfig
from distill.callbacks import GradualMagnitudePruning, QuantizationAwareTraining
from distill.compression.quantization.scheme import ActivationScheme
from distill.core.signals import Needs, Request, Signals
from distill.core.utils.errors import UserError
from distill.losses import DIST, CrossEntropy, FitNetHint, HintonKL
from distill.losses.base import DistillationLoss, LossSum
from distill.losses.callable import CallableLoss
from distill.models.students import LoraConfig
from distill.models.students.adapter import add_adapter
from distill.tasks import make_task
from distill.training import objective

VOCABULARY = 97


@pytest.fixture(autouse=True)
def lazy_from_small_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objective, "_LARGE", 64)


def llama(hidden: int, seed: int, *, tied: bool = False, layers: int = 2) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=2,
        tie_word_embeddings=tied,
        initializer_range=0.2,
    )
    return LlamaForCausalLM(config)


def batches(count: int) -> list[Batch]:
    generator = torch.Generator().manual_seed(0)
    made = []
    for number in range(count):
        ids = torch.randint(VOCABULARY, (3, 12), generator=generator)
        mask = torch.rand(3, 12, generator=generator) > 0.2 * (number % 3)
        labels = ids.roll(-1, 1).masked_fill(~mask, -100)
        made.append(Batch({"input_ids": ids}, labels, mask, extras={"bytes": mask.long() * 3}))
    return made


def trained(
    way: str, monkeypatch: pytest.MonkeyPatch, make: Callable[[], Distillation], **trainer: Any
) -> Distillation:
    monkeypatch.setattr(objective, "_LARGE", 64 if way == "lazy" else 10**9)
    module = make()
    data = DataLoader(batches(6), batch_size=None)
    options = {"max_epochs": 2, "logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    Trainer(accelerator="cpu", devices=1, enable_model_summary=False, **options | trainer).fit(module, data, data)
    assert bool(module.why_whole()) is (way != "lazy")
    return module


def pair(losses: Callable[[], list[Any]], *, tied: bool = False, lr: float = 1e-3) -> Callable[[], Distillation]:
    return lambda: Distillation(
        llama(16, 1, tied=tied), "causal-lm", llama(24, 2), losses(), OptimizerConfig(lr=lr, weight_decay=0.0)
    )


@pytest.mark.parametrize(
    ("tied", "options", "callbacks"),
    [
        (False, {}, lambda: []),
        (True, {"accumulate_grad_batches": 4}, lambda: []),
        (True, {}, lambda: [QuantizationAwareTraining(begin=0.1, activations=ActivationScheme(kind="dynamic"))]),
        (
            False,
            {},
            lambda: [
                QuantizationAwareTraining(begin=0.1, activations=ActivationScheme(kind="static"), include=["lm_head"])
            ],
        ),
        (False, {}, lambda: [GradualMagnitudePruning(final_sparsity=0.5, begin=0.0, end=0.5)]),
    ],
    ids=["untied", "tied, accumulated", "tied, quantized", "a quantized head", "pruned"],
)
def test_training_and_scores_are_those_of_all_logits_at_once(
    monkeypatch: pytest.MonkeyPatch, tied: bool, options: dict[str, Any], callbacks: Callable[[], list[Any]]
) -> None:
    make = pair(lambda: [CrossEntropy(weight=0.3), HintonKL(temperature=1.5), FitNetHint(layers={1: 1})], tied=tied)
    lazy, whole = (trained(way, monkeypatch, make, callbacks=callbacks(), **options) for way in ("lazy", "whole"))
    for (name, one), (_, other) in zip(lazy.named_parameters(), whole.named_parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=2e-3, atol=2e-5, msg=name)
    assert lazy.trainer.callback_metrics.keys() == whole.trainer.callback_metrics.keys()
    for name, value in whole.trainer.callback_metrics.items():
        torch.testing.assert_close(lazy.trainer.callback_metrics[name], value, rtol=2e-3, atol=2e-4, msg=name)
    found, expected = lazy.evidence.found, whole.evidence.found
    assert found["predictions"] == expected["predictions"]
    assert found["constant_layers"] == expected["constant_layers"]


def test_the_gradient_of_one_batch_is_that_of_all_logits_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    gradients = []
    for least in (64, 10**9):
        monkeypatch.setattr(objective, "_LARGE", least)
        module = pair(lambda: [HintonKL(), CrossEntropy(weight=0.5)], tied=True)().double()
        assert module.teacher is not None
        module.teacher.models[0].double()
        total, raw = module.terms(batches(2)[1].at(0, 10))
        total.backward()
        gradients.append([raw["hinton_kl"], raw["cross_entropy"], *(p.grad for p in module.student.parameters())])
    assert list(raw) == ["hinton_kl", "cross_entropy"]
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("tied", "targets"), [(True, ["q_proj", "down_proj"]), (False, ["v_proj", "lm_head"]), (False, ["lm_head"])]
)
def test_the_gradient_of_an_adapter_is_that_of_all_logits_at_once(
    tied: bool, targets: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    gradients = []
    for least in (64, 10**9):
        monkeypatch.setattr(objective, "_LARGE", least)
        student = llama(16, 1, tied=tied)
        add_adapter(student, LoraConfig(r=4, target_modules=targets, lora_dropout=0.4), make_task("causal-lm"))
        module = Distillation(student, "causal-lm", llama(24, 2), [HintonKL(), CrossEntropy(weight=0.5)]).double()
        assert bool(module.why_whole()) is (least != 64)
        assert module.teacher is not None
        module.teacher.models[0].double()
        learning = {name: p for name, p in student.named_parameters() if p.requires_grad}
        assert len(learning) == 2 * len([name for name, _ in student.named_modules() if name.endswith("lora_A")])
        torch.manual_seed(5)
        for parameter in learning.values():
            torch.nn.init.normal_(parameter)
        total, raw = module.terms(batches(2)[1].at(0, 10))
        total.backward()
        gradients.append([*raw.values(), *(p.grad for p in learning.values())])
        assert all(p.grad is None for p in student.parameters() if not p.requires_grad)
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)


class OwnForward(LlamaForCausalLM):
    """Its head's product is squared."""

    def forward(self, *args: Any, **options: Any) -> Any:
        output = super().forward(*args, **options)
        output.logits = output.logits**2
        return output


def test_why_the_logits_are_whole_is_said() -> None:
    whole = pair(lambda: [CrossEntropy(), DIST()])()
    assert whole.why_whole() == "dist may read all positions together (row_wise is not set)"
    own = pair(lambda: [CallableLoss(lambda s, t: (s - t).square().mean(-1), name="mine")])()
    assert own.why_whole() == "mine may read all positions together (row_wise is not set)"
    told = pair(lambda: [CallableLoss(lambda s, t: (s - t).square().mean(-1), name="mine", row_wise=True)])()
    assert told.why_whole() == ""
    learning = pair(lambda: [CrossEntropy(), Own(LOGITS, LOGITS, learns=True)])()
    assert learning.why_whole() == "own reads more than logits, or has parameters of its own"
    model = OwnForward(llama(16, 1).config)
    assert "none of a factor and a soft cap" in Distillation(model, "causal-lm").why_whole()


def test_a_small_vocabulary_is_computed_as_a_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objective, "_LARGE", 98)
    assert pair(lambda: [CrossEntropy()])().why_whole() == f"the vocabulary is small ({VOCABULARY})"


def test_a_head_that_a_compression_replaces_computes_its_logits() -> None:
    module = pair(lambda: [CrossEntropy(), HintonKL()])()
    assert module.why_whole() == ""
    module.student.lm_head = nn.Sequential(nn.Linear(16, 4), nn.Linear(4, VOCABULARY))  # type: ignore[assignment]
    assert module.why_whole() == "the head has been replaced, or has hooks"
    total, _ = module.terms(batches(1)[0].at(0, 10))
    total.backward()
    assert module.student.lm_head[0].weight.grad is not None  # type: ignore[index]


def test_a_copy_of_the_student_still_knows_its_head() -> None:
    module = pair(lambda: [CrossEntropy()])()
    assert module.why_whole() == ""
    assert copy.deepcopy(module).why_whole() == ""


class Own(DistillationLoss):
    """Reads what it is told to, times a number that it learns."""

    row_wise = True

    def __init__(self, student: Request, teacher: Request, learns: bool = False) -> None:
        super().__init__(name="own")
        self.asked, self.factor = Needs(student, teacher), nn.Parameter(torch.tensor(1.5), requires_grad=learns)

    @property
    def needs(self) -> Needs:
        return self.asked

    def forward(self, student: Signals, teacher: Signals, batch: Batch) -> LossSum:
        def read(signals: Signals, asked: Request) -> Tensor:
            found = [signals.logits] if asked.logits else []
            found += [signals.hidden_states[k] for k in asked.hidden_states] + [signals.taps[k] for k in asked.taps]
            return torch.stack([part.mean(-1) for part in found if part is not None]).sum(0)

        apart = self.factor * read(student, self.asked.student) - read(teacher, self.asked.teacher)
        return LossSum((apart if batch.mask is None else apart[batch.mask]).square().sum(), batch.count)


LOGITS = Request(logits=True)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Own(LOGITS, LOGITS, learns=True),
        lambda: Own(Request(hidden_states=frozenset({-1})), LOGITS),
        lambda: Own(LOGITS | Request(hidden_states=frozenset({-1})), LOGITS),
        lambda: Own(LOGITS, LOGITS | Request(hidden_states=frozenset({1}))),
        lambda: Own(Request(taps=frozenset({"lm_head"})), Request(taps=frozenset({"lm_head"}))),
        lambda: Own(Request(hidden_states=frozenset({-1})), Request(taps=frozenset({"lm_head"}))),
    ],
    ids=["learns", "teacher's logits", "hidden states too", "teacher's hidden states", "tapped", "teacher tapped"],
)
def test_a_loss_that_reads_more_than_rows_of_logits_is_as_with_all_of_them(
    monkeypatch: pytest.MonkeyPatch, make: Callable[[], DistillationLoss]
) -> None:
    found = []
    for least in (64, 10**9):
        monkeypatch.setattr(objective, "_LARGE", least)
        module = pair(lambda: [CrossEntropy(), HintonKL(), make()])()
        total, _ = module.terms(batches(2)[1].at(0, 10))
        total.backward()
        found.append([total, *(p.grad for p in module.parameters() if p.requires_grad)])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


class OfSome(Own):
    """Counts other positions than the batch's."""

    row_wise = True

    def forward(self, student: Signals, teacher: Signals, batch: Batch) -> LossSum:
        return LossSum(super().forward(student, teacher, batch).total, (batch.count + 1) // 2)


def test_a_row_wise_loss_that_counts_other_positions_is_refused() -> None:
    module = pair(lambda: [OfSome(LOGITS, LOGITS)])()
    with pytest.raises(UserError, match=r"positions are not batch\.count"):
        module.terms(batches(1)[0].at(0, 10))
