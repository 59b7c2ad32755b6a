"""A loss of one's own that breaks the contract is told so in its own words."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from distill.core.signals import Batch, Needs, Request
from distill.core.utils.errors import UserError
from distill.losses.base import DistillationLoss, LossSum
from distill.tasks import Plain
from distill.training.module import Distillation

BOTH = Needs(student=Request(logits=True), teacher=Request(logits=True))
X, Y = torch.randn(6, 4, generator=torch.Generator().manual_seed(0)), torch.arange(6) % 3


class Own(DistillationLoss):
    """What ``made`` gives of the two models' squared distances ``[N]`` and the batch."""

    def __init__(self, made: Callable[[Tensor, Batch], Any], needs: Any = BOTH) -> None:
        super().__init__()
        self.made, self.asked = made, needs

    @property
    def needs(self) -> Needs:
        return self.asked  # type: ignore[no-any-return]

    def forward(self, student: Any, teacher: Any, batch: Batch) -> LossSum:
        return self.made((student.at(batch.mask) - teacher.at(batch.mask)).square().sum(-1), batch)  # type: ignore[no-any-return]


def terms(loss: Any, teacher: nn.Module | None = None) -> Tensor:
    torch.manual_seed(0)
    module = Distillation(nn.Linear(4, 3), Plain(), teacher or nn.Linear(4, 3), [loss])
    return module.terms(Batch({"input": X}, labels=Y))[0]


@pytest.mark.parametrize(
    ("made", "says"),
    [
        (lambda d, b: d.sum(), "returns a tensor of []"),
        (lambda d, b: None, "returns a NoneType"),
        (lambda d, b: LossSum(d, b.count), "total must be a tensor without axes, and is of [6]"),
        (lambda d, b: LossSum(d.sum(), 6), "positions must be a tensor without axes, and is a int"),  # type: ignore[arg-type]
        (lambda d, b: LossSum(d.sum().detach(), b.count), "has no gradient"),
    ],
)
def test_what_is_no_sum_and_count_is_refused(made: Any, says: str) -> None:
    with pytest.raises(UserError) as error:
        terms(Own(made))
    assert says in str(error.value)
    assert error.value.key == "own"


@pytest.mark.parametrize("mean", [False, True])
def test_a_mean_for_a_sum_is_reported_once(caplog: pytest.LogCaptureFixture, mean: bool) -> None:
    loss = Own(lambda d, b: LossSum(d.mean() if mean else d.sum(), b.count))
    with caplog.at_level(logging.WARNING):
        objective, again = terms(loss), terms(loss)
    assert caplog.text.count("it must be the sum") == mean
    assert objective == again


def test_dividing_a_mean_by_one_is_no_mistake(caplog: pytest.LogCaptureFixture) -> None:
    terms(Own(lambda d, b: LossSum(d.mean(), torch.ones(()))))
    assert not caplog.text


@pytest.mark.parametrize("needs", [lambda: BOTH, None])
def test_needs_that_are_no_needs_are_refused(needs: Any) -> None:
    with pytest.raises(UserError, match="needs must be a Needs"):
        terms(Own(lambda d, b: LossSum(d.sum(), b.count), needs))


def test_a_loss_that_reads_a_teacher_is_refused_without_one() -> None:
    with pytest.raises(UserError, match="Own compares the student with a teacher"):
        Distillation(nn.Linear(4, 3), Plain(), losses=[Own(lambda d, b: LossSum(d.sum(), b.count))])


def test_a_failing_loss_says_what_it_asked_for() -> None:
    with pytest.raises(RuntimeError) as error:
        terms(Own(lambda d, b: d, Needs(student=Request(logits=True, taps=frozenset({""})))))
    assert "student=logits, taps [''], teacher=nothing" in error.value.__notes__[0]


def test_a_loss_that_was_not_initialized_is_refused() -> None:
    class Bare(Own):
        def __init__(self) -> None:
            self.asked = BOTH

    with pytest.raises(UserError, match="begin its __init__ with super"):
        terms(Bare())


def test_a_module_that_is_not_there_is_refused_by_name() -> None:
    asked = Needs(student=Request(logits=True, taps=frozenset({"body"})), teacher=Request(logits=True))
    with pytest.raises(UserError, match="taps = 'body': Linear has no module of this name"):
        terms(Own(lambda d, b: LossSum(d.sum(), b.count), asked))


def test_a_request_takes_any_collection_and_no_bare_name() -> None:
    assert Request(taps=["a"], hidden_states={1}) == Request(taps=frozenset({"a"}), hidden_states=frozenset({1}))  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"put it in braces: \{'a'\}"):
        Request(taps="a")  # type: ignore[arg-type]


def test_what_is_no_batch_is_refused() -> None:
    for task in ("text-classification", Plain(adaptor=lambda raw: raw)):
        module = Distillation(nn.Linear(4, 3), task)
        with pytest.raises(UserError, match=r"distill\.Batch"):
            module.validation_step({"input_ids": X}, 0)
