"""Losses of logits that are computed a block at a time, against the same in float64 as a whole."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from distill.core.lazy_logits import Curve, LazyLogits
from distill.core.signals import IGNORE, Batch, Signals
from distill.losses import (
    AlphaBeta,
    CrossEntropy,
    DecoupledKD,
    HintonKL,
    JensenShannon,
    LogitMSE,
    ReverseKL,
    SkewKL,
    TopKKL,
    TotalVariation,
    head_terms,
)
from distill.losses.base import DistillationLoss, is_row_wise
from distill.losses.callable import CallableLoss

MAKERS: dict[str, Callable[[], DistillationLoss]] = {
    "cross entropy": lambda: CrossEntropy(label_smoothing=0.1),
    "forward": lambda: HintonKL(temperature=2.0, weight=0.7),
    "reverse": lambda: ReverseKL(weight=0.4),
    "Jensen-Shannon": lambda: JensenShannon(beta=0.3, weight=0.5),
    "skew": lambda: SkewKL(alpha=0.2),
    "decoupled": lambda: DecoupledKD(beta=2.0),
    "squared error": lambda: LogitMSE(weight=0.1),
    "total variation": lambda: TotalVariation(weight=0.6),
    "alpha-beta": lambda: AlphaBeta(0.2, 0.7),
    "top k": lambda: TopKKL(k=5, temperature=2.0),
    "one's own": lambda: CallableLoss(lambda s, t: (s - t).abs().mean(-1), name="own", row_wise=True),
}


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several blocks, the last of them incomplete, and several parts of a block."""
    monkeypatch.setattr(head_terms, "_BLOCK", 7 * 101)
    monkeypatch.setattr(head_terms, "_CPU_ROWS", 3 * 101)


def lazy(rows: tuple[int, ...], hidden: int, width: int, seed: int, *, bias: bool = True, **more: object) -> LazyLogits:
    generator = torch.Generator().manual_seed(seed)

    def leaf(*shape: int) -> Tensor:
        return (0.5 * torch.randn(*shape, generator=generator, dtype=torch.float64)).requires_grad_()

    return LazyLogits(leaf(*rows, hidden), leaf(width, hidden), leaf(width) if bias else None, **more)  # type: ignore[arg-type]


def as_dtype(logits: LazyLogits, dtype: torch.dtype) -> LazyLogits:
    parts = (logits.hidden, logits.weight, logits.bias)
    made = [None if part is None else part.detach().to(dtype).requires_grad_(part.requires_grad) for part in parts]
    return LazyLogits(made[0], made[1], made[2], logits.curve)  # type: ignore[arg-type]


def batch_of(mask: Tensor | None, width: int) -> Batch:
    labels = torch.randint(width, (2, 11), generator=torch.Generator().manual_seed(5))
    labels[1, 3] = IGNORE
    return Batch({"input_ids": labels}, labels=labels, mask=mask, step=3, total_steps=10)


def as_a_whole(losses: list[DistillationLoss], student: LazyLogits, teacher: LazyLogits, batch: Batch) -> Tensor:
    """The plain way: every loss of all logits, in the dtype of the operands."""
    signals = Signals(student.whole()), Signals(teacher.whole().detach())
    totals = [loss.weight(batch.step, batch.total_steps) * loss(*signals, batch).total for loss in losses]
    return torch.stack(totals).sum()


MASK = torch.rand(2, 11, generator=torch.Generator().manual_seed(1)) > 0.3


@pytest.mark.parametrize("kinds", [[kind] for kind in MAKERS] + [list(MAKERS)], ids=[*MAKERS, "all at once"])
@pytest.mark.parametrize("mask", [MASK, None], ids=["masked", "all count"])
@pytest.mark.parametrize(("dtype", "near"), [(torch.float32, 1e-6), (torch.bfloat16, 5e-3)])
def test_value_and_gradients_are_those_of_float64(
    kinds: list[str], mask: Tensor | None, dtype: torch.dtype, near: float
) -> None:
    losses = [MAKERS[kind]() for kind in kinds]
    exact = lazy((2, 11), 16, 101, 0), lazy((2, 11), 24, 101, 1)
    rounded = tuple(as_dtype(of, dtype) for of in exact)
    exact = tuple(as_dtype(of, torch.float64) for of in rounded)  # of the very same operands
    batch = batch_of(mask, 101)
    expected = as_a_whole(losses, *exact, batch)
    total, sums = head_terms.head_terms(losses, *rounded, batch)
    assert total.double().item() == pytest.approx(expected.item(), rel=near)
    weights = [loss.weight(batch.step, batch.total_steps) for loss in losses]
    assert sum(w * s for w, s in zip(weights, sums, strict=True)).item() == pytest.approx(total.item(), rel=1e-5)
    total.backward()
    expected.backward()
    for name in ("hidden", "weight", "bias"):
        found, wanted = getattr(rounded[0], name).grad, getattr(exact[0], name).grad
        assert found.dtype is dtype
        assert (found.double() - wanted).norm() <= near * wanted.norm(), name
    assert rounded[1].hidden.grad is None


def test_it_is_exact_where_student_and_teacher_nearly_agree() -> None:
    teacher = lazy((2, 11), 16, 101, 0)
    student = replace(
        teacher, hidden=(teacher.hidden + 1e-3 * torch.randn_like(teacher.hidden)).detach().requires_grad_()
    )
    single = as_dtype(student, torch.float32)
    exact = as_dtype(single, torch.float64)
    target = as_dtype(teacher, torch.float32)
    losses: list[DistillationLoss] = [HintonKL(temperature=1.0)]
    total, _ = head_terms.head_terms(losses, single, target, batch_of(MASK, 101))
    expected = as_a_whole(losses, exact, as_dtype(target, torch.float64), batch_of(MASK, 101))
    total.backward()
    expected.backward()
    assert exact.hidden.grad is not None
    assert single.hidden.grad is not None
    assert (single.hidden.grad.double() - exact.hidden.grad).norm() <= 1e-3 * exact.hidden.grad.norm()


@pytest.mark.parametrize("curve", [Curve(scale=0.25), Curve(cap=5.0), Curve(scale=2.0, cap=3.0)])
def test_what_a_model_does_with_the_product_is_differentiated_too(curve: Curve) -> None:
    student, teacher = lazy((2, 11), 16, 101, 0, curve=curve), lazy((2, 11), 24, 101, 1, curve=curve)
    twin = as_dtype(student, torch.float64)
    losses: list[DistillationLoss] = [CrossEntropy(), HintonKL()]
    batch = batch_of(MASK, 101)
    head_terms.head_terms(losses, student, teacher, batch)[0].backward()
    as_a_whole(losses, twin, teacher, batch).backward()
    for name in ("hidden", "weight", "bias"):
        torch.testing.assert_close(getattr(student, name).grad, getattr(twin, name).grad, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("width", [101, 96])
@pytest.mark.parametrize("whole_teacher", [False, True])
def test_a_vocabulary_may_be_padded_and_a_teacher_may_give_all_of_its_logits(width: int, whole_teacher: bool) -> None:
    student, teacher = lazy((2, 11), 16, width, 0, bias=False), lazy((2, 11), 24, 197 - width, 1)
    twin, batch = as_dtype(student, torch.float64), batch_of(MASK, 96)
    losses: list[DistillationLoss] = [CrossEntropy(), HintonKL()]
    given = teacher.whole().detach() if whole_teacher else teacher
    head_terms.head_terms(losses, student, given, batch)[0].backward()
    as_a_whole(losses, twin, teacher, batch).backward()
    torch.testing.assert_close(student.hidden.grad, twin.hidden.grad)
    torch.testing.assert_close(student.weight.grad, twin.weight.grad)


@pytest.mark.parametrize("frozen", ["hidden", "weight", "bias"])
def test_what_is_frozen_gets_no_gradient_and_changes_none(frozen: str) -> None:
    student, teacher = lazy((2, 11), 16, 101, 0), lazy((2, 11), 24, 101, 1)
    twin, batch = as_dtype(student, torch.float64), batch_of(None, 101)
    getattr(student, frozen).requires_grad_(False)
    losses: list[DistillationLoss] = [CrossEntropy(), ReverseKL()]
    head_terms.head_terms(losses, student, teacher, batch)[0].backward()
    as_a_whole(losses, twin, teacher, batch).backward()
    for name in {"hidden", "weight", "bias"} - {frozen}:
        torch.testing.assert_close(getattr(student, name).grad, getattr(twin, name).grad)
    assert getattr(student, frozen).grad is None


def test_of_no_position_the_sum_is_0_and_so_are_the_gradients() -> None:
    student, teacher = lazy((2, 11), 16, 101, 0), lazy((2, 11), 24, 101, 1)
    batch = batch_of(torch.zeros(2, 11, dtype=torch.bool), 101)
    total, sums = head_terms.head_terms([CrossEntropy(), HintonKL()], student, teacher, batch)
    total.backward()
    assert total.item() == 0
    assert [one.item() for one in sums] == [0, 0]
    assert not student.hidden.grad.any()  # type: ignore[union-attr]
    assert not student.weight.grad.any()  # type: ignore[union-attr]


def test_one_of_weight_0_is_logged_and_has_no_part_in_the_gradient() -> None:
    student, teacher = lazy((2, 11), 16, 101, 0), lazy((2, 11), 24, 101, 1)
    alone, batch = as_dtype(student, torch.float64), batch_of(MASK, 101)
    _, sums = head_terms.head_terms([CrossEntropy(), HintonKL(weight=0.0)], student, teacher, batch)
    total, _ = head_terms.head_terms([CrossEntropy()], alone, None, batch)
    assert sums[1] > 0
    both, _ = head_terms.head_terms([CrossEntropy(), HintonKL(weight=0.0)], student, teacher, batch)
    both.backward()
    total.backward()
    assert torch.equal(student.weight.grad, alone.weight.grad)  # type: ignore[arg-type]


def test_a_pass_that_keeps_its_graph_can_be_repeated() -> None:
    student, teacher = lazy((2, 11), 16, 101, 0), lazy((2, 11), 24, 101, 1)
    total, _ = head_terms.head_terms([HintonKL()], student, teacher, batch_of(MASK, 101))
    first = torch.autograd.grad(3 * total, student.hidden, retain_graph=True)
    second = torch.autograd.grad(3 * total, student.hidden)
    assert torch.equal(first[0], second[0])


def test_a_head_that_is_tied_to_the_embeddings_gets_both_gradients() -> None:
    table = torch.randn(101, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(2)).requires_grad_()
    twin = table.detach().clone().requires_grad_()
    teacher, batch = lazy((2, 11), 24, 101, 1), batch_of(None, 101)
    assert batch.labels is not None
    ids = batch.labels.clamp(min=0)
    losses: list[DistillationLoss] = [CrossEntropy(), HintonKL()]
    head_terms.head_terms(losses, LazyLogits(table[ids].tanh(), table), teacher, batch)[0].backward()
    as_a_whole(losses, LazyLogits(twin[ids].tanh(), twin), teacher, batch).backward()
    torch.testing.assert_close(table.grad, twin.grad)


class Halved(HintonKL):
    """Computes otherwise than what it inherits from, and does not say that it is row-wise."""

    def divergence(self, student_NC: Tensor, teacher_NC: Tensor, temperature: float) -> Tensor:
        return super().divergence(student_NC, teacher_NC, temperature) / 2


class HalvedByRows(Halved):
    """Says so."""

    row_wise = True


def test_a_loss_that_changes_what_it_inherits_must_say_again_that_it_is_row_wise() -> None:
    assert is_row_wise(HintonKL())
    assert not is_row_wise(Halved())
    assert is_row_wise(HalvedByRows())


def test_the_closed_form_of_a_loss_is_not_that_of_one_that_computes_otherwise() -> None:
    student, teacher = lazy((2, 11), 16, 101, 0), lazy((2, 11), 24, 101, 1)
    _, sums = head_terms.head_terms([HintonKL(), HalvedByRows(name="half")], student, teacher, batch_of(MASK, 101))
    assert sums[1].item() == pytest.approx(sums[0].item() / 2, rel=1e-6)
