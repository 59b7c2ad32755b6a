"""The promises of a function of one's own as a term of the objective: none is dropped, and each counts as ours do."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from distill.core.signals import IGNORE, Batch, Signals
from distill.core.utils.errors import UserError
from distill.losses import CrossEntropy, LogitMSE
from distill.losses.callable import CallableLoss, as_loss
from distill.models.teachers import Ensemble
from distill.tasks import Plain
from distill.training.module import Distillation

B, T, C = 3, 4, 5
STUDENT, TEACHER = torch.randn(2, B, T, C, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
MASK = torch.tensor([[1, 1, 0, 0], [1, 1, 1, 1], [0, 0, 0, 0]]).bool()
BATCH = Batch(inputs={"input": torch.zeros(B, T)}, mask=MASK)


def squares(student: Tensor, teacher: Tensor) -> Tensor:
    """One value a prediction."""
    return (student - teacher).square().mean(-1)


def mean_of_squares(student: Tensor, teacher: Tensor) -> Tensor:
    return squares(student, teacher).mean()


class Scaled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        return self.scale * squares(student, teacher)


def oracle() -> Tensor:
    """By a loop over the positions that count."""
    pairs = zip(STUDENT.flatten(0, 1), TEACHER.flatten(0, 1), MASK.flatten(), strict=True)
    rows = [(student - teacher).square().mean() for student, teacher, counts in pairs if counts]
    return torch.stack(rows).sum()


@pytest.mark.parametrize("function", [squares, mean_of_squares, nn.MSELoss(), Scaled(), lambda s, t: squares(s, t)])
def test_a_function_becomes_a_term_over_the_predictions_that_count(function: Any) -> None:
    total, positions = as_loss(function, 0)(Signals(STUDENT), Signals(TEACHER), BATCH)
    assert positions == 6
    torch.testing.assert_close(total, oracle())


def test_a_sum_of_torchs_is_taken_for_one() -> None:
    total, _ = CallableLoss(nn.MSELoss(reduction="sum"))(Signals(STUDENT), Signals(TEACHER), BATCH)
    torch.testing.assert_close(total, C * oracle())


def summed_squares(student: Tensor, teacher: Tensor) -> Tensor:
    return squares(student, teacher).sum()


def test_a_scalar_that_doubles_with_the_predictions_is_taken_for_their_sum_and_draws_no_random_number() -> None:
    def noisy(student: Tensor, teacher: Tensor) -> Tensor:
        return summed_squares(student, teacher) + 0 * torch.rand(())

    torch.manual_seed(3)
    drawn = torch.rand(2)[1]
    torch.manual_seed(3)
    loss = CallableLoss(noisy)
    total, _ = loss(Signals(STUDENT), Signals(TEACHER), BATCH)
    torch.testing.assert_close(total, oracle())
    assert torch.equal(torch.rand(()), drawn)  # after the one of the call itself
    same, _ = CallableLoss(summed_squares)(Signals(TEACHER), Signals(TEACHER), BATCH)  # of which nothing can be told
    assert same == 0


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda s, t: squares(s.detach(), t), "what it returns has no gradient"),
        (lambda s, t: squares(s, t.mul_(2)), "it changes the teacher's logits"),
    ],
)
def test_a_function_that_trains_nothing_or_changes_what_others_read_is_refused(function: Any, message: str) -> None:
    teacher = Signals(TEACHER.clone())
    with pytest.raises(UserError, match=message):
        CallableLoss(function)(Signals(STUDENT.clone().requires_grad_()), teacher, BATCH)


@pytest.mark.parametrize("wrong", [nn.CosineSimilarity(), lambda s, t: -squares(s, t)])
def test_a_similarity_that_would_be_made_small_is_warned_of_once(wrong: Any, caplog: Any) -> None:
    loss = CallableLoss(wrong, name="mine")
    for _ in range(2):
        loss(Signals(STUDENT), Signals(TEACHER), BATCH)
    assert caplog.messages == ["mine is greater where the student agrees with the teacher: it drives them apart"]
    CallableLoss(squares)(Signals(STUDENT), Signals(TEACHER), BATCH)
    CallableLoss(lambda s, t: torch.nn.functional.cross_entropy(s, t.softmax(-1)))(
        Signals(STUDENT), Signals(TEACHER), BATCH
    )
    assert len(caplog.messages) == 1


def test_where_nothing_counts_the_loss_is_0_with_a_gradient_of_0() -> None:
    student = STUDENT.clone().requires_grad_()
    none = Batch(inputs=BATCH.inputs, mask=torch.zeros_like(MASK))
    total, positions = CallableLoss(mean_of_squares)(Signals(student), Signals(TEACHER), none)
    total.backward()
    assert total == positions == 0
    assert not student.grad.any()  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("returned", "shown"),
    [
        (STUDENT[0, 0], r"\[5\]"),
        (0.5, "float"),
        (torch.zeros(6, C), r"\[6, 5\]"),
        (torch.arange(1, 7), "int64"),
        (torch.tensor(True), "bool"),
    ],
)
def test_what_is_neither_a_mean_nor_one_value_each_is_refused(returned: Any, shown: str) -> None:
    with pytest.raises(UserError, match=f"squares: of 6 predictions it must return the mean.*returns {shown}"):
        CallableLoss(lambda s, t: returned, name="squares")(Signals(STUDENT), Signals(TEACHER), BATCH)


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (nn.KLDivLoss(), "KLDivLoss does not compare logits with logits.*use HintonKL"),
        (nn.CrossEntropyLoss(), "CrossEntropyLoss does not compare logits with logits"),
        (CrossEntropy, "a loss is a DistillationLoss or a function"),
        ("CrossEntropy", "a loss is a DistillationLoss or a function"),
        (None, "a loss is a DistillationLoss or a function"),
        (lambda student: student, r"takes two, \(student, teacher\), and this one takes \(student\)"),
        (lambda student, teacher, labels: labels, r"takes \(student, teacher, labels\).*functools\.partial"),
    ],
)
def test_what_is_no_loss_is_refused_and_never_dropped(loss: Any, message: str) -> None:
    with pytest.raises(UserError, match=rf"model\.losses\.1.*{message}"):
        Distillation(student=nn.Linear(3, C), teacher=nn.Linear(3, C), task=Plain(), losses=[CrossEntropy(), loss])


def test_functions_train_as_the_loss_of_ours_that_computes_the_same() -> None:
    torch.manual_seed(0)
    student, teacher = nn.Linear(3, C), nn.Linear(3, C)
    batch = Batch(inputs={"input": torch.randn(7, 3)}, labels=torch.tensor([0, 1, 2, 3, 4, 0, IGNORE]))
    objectives = []
    ours, functions = [LogitMSE(weight=0.5), LogitMSE(name="second")], [CallableLoss(squares, 0.5, "half"), squares]
    for losses in (ours, functions):
        module = Distillation(student=student, teacher=teacher, task=Plain(), losses=losses)  # type: ignore[arg-type]
        objectives.append(module.terms(batch))
    torch.testing.assert_close(objectives[0][0], objectives[1][0])
    assert list(objectives[1][1]) == ["half", "squares"]


def test_a_function_without_a_name_is_called_by_its_place_and_a_modules_parameters_are_trained() -> None:
    losses: Any = [lambda s, t: squares(s, t), Scaled()]
    module = Distillation(student=nn.Linear(3, C), teacher=nn.Linear(3, C), task=Plain(), losses=losses)
    assert [loss.name for loss in module._losses()] == ["loss_0", "scaled"]
    assert [name for name, _ in module.losses.named_parameters()] == ["1.function.scale"]
    assert as_loss(functools.partial(mean_of_squares), 0).name == "mean_of_squares"


def test_a_function_without_a_name_is_said_to_be_logged_by_its_place(caplog: pytest.LogCaptureFixture) -> None:
    as_loss(squares, 0)
    as_loss(functools.partial(squares), 1)
    assert not caplog.messages
    as_loss(lambda s, t: squares(s, t), 2)
    as_loss(functools.partial(lambda s, t: squares(s, t)), 3)
    named = "is logged as loss_{0}: CallableLoss(function, name=...) gives it a name"
    assert caplog.messages == [f"model.losses.{i} {named.format(i)}" for i in (2, 3)]


def test_teachers_in_a_list_are_never_dropped() -> None:
    teachers: Any = [nn.Linear(3, C), nn.Linear(3, C)]
    with pytest.raises(UserError, match=r"model\.teacher\.0 = 'Linear'.*Ensemble"):
        Distillation(student=nn.Linear(3, C), teacher=teachers, task=Plain())
    with pytest.raises(UserError, match=r"model\.teacher\.0 = 'Linear': must be a TeacherSource"):
        Ensemble(teachers)


@pytest.mark.parametrize("losses", [squares, LogitMSE(), {"a": LogitMSE()}, "LogitMSE"])
def test_losses_that_are_no_list_are_refused(losses: Any) -> None:
    with pytest.raises(UserError, match=r"model\.losses = .*must be a list of losses"):
        Distillation(student=nn.Linear(3, C), teacher=nn.Linear(3, C), task=Plain(), losses=losses)


def test_a_teacher_that_is_a_part_of_the_student_is_refused() -> None:
    student = nn.Sequential(nn.Linear(3, C), nn.Linear(C, C))
    for teacher in (student, student[0], nn.Sequential(nn.Linear(3, C), student[1])):
        with pytest.raises(UserError, match=r"model\.teacher = .*is the student itself, or a part of it"):
            Distillation(student=student, teacher=teacher, task=Plain())
