import numpy as np
import pytest
import torch

from distill.core.signals import Batch, Signals
from distill.core.token_scores import TokenScores
from distill.losses.total_variation import total_variation


def oracle(student, teacher, t):
    total = 0.0
    for s, z in zip(student, teacher, strict=True):
        q, p = np.exp(s / t) / np.exp(s / t).sum(), np.exp(z / t) / np.exp(z / t).sum()
        total += 1 - sum(min(a, b) for a, b in zip(p, q, strict=True))
    return t * total


@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_value_and_gradient_are_those_of_one_less_the_overlap(agrees, temperature):
    teacher = torch.randn(3, 4).double()
    agrees(
        lambda s: total_variation(s, teacher, temperature),
        lambda s: oracle(s, teacher.numpy(), temperature),
        torch.randn(3, 4),
    )


def test_it_is_one_less_the_acceptance_that_a_validation_logs():
    student, teacher = torch.randn(2, 3, 7), torch.randn(2, 3, 7)
    labels = torch.zeros(2, 3, dtype=torch.long)
    scores = TokenScores.of(Signals(student), Batch({"input_ids": labels}, labels=labels), Signals(teacher))
    assert scores.acceptance is not None
    lost = total_variation(student.flatten(0, 1), teacher.flatten(0, 1))
    torch.testing.assert_close(lost, (1 - scores.acceptance).sum())


def test_the_size_of_its_gradient_does_not_depend_on_the_temperature():
    student, teacher = torch.randn(50, 9).requires_grad_(), torch.randn(50, 9)
    sizes = [torch.autograd.grad(total_variation(student, teacher, t), student)[0].norm() for t in (20.0, 40.0)]
    torch.testing.assert_close(sizes[0], sizes[1], rtol=0.05, atol=0)
