import math

import pytest
import torch

from distill.core.signals import Batch, Signals
from distill.losses import BinaryKL
from distill.losses.binary_kl import binary_kl


def sigmoid(z):
    return 1 / (1 + math.exp(-z))


def oracle(student, teacher, t):
    total = 0.0
    for s_row, t_row in zip(student, teacher, strict=True):
        terms = []
        for s, z in zip(s_row, t_row, strict=True):
            p, q = sigmoid(z / t), sigmoid(s / t)
            terms.append(p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q)))
        total += sum(terms) / len(terms)
    return t * t * total


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_value_and_gradient_are_those_of_each_classs_kl_times_t_squared(agrees, temperature):
    teacher = torch.randn(3, 5, dtype=torch.float64)
    agrees(
        lambda s: binary_kl(s, teacher, temperature),
        lambda s: oracle(s.tolist(), teacher.tolist(), temperature),
        torch.randn(3, 5),
    )


def test_it_is_zero_for_equal_logits_and_finite_for_large_ones():
    teacher = torch.tensor([[80.0, -80.0, 0.0]])
    assert binary_kl(teacher, teacher) == 0
    student = torch.tensor([[-300.0, 300.0, 1.0]], requires_grad=True)
    binary_kl(student, teacher).backward()
    assert student.grad.isfinite().all()


def test_a_head_of_one_output_is_a_yes_or_no_too():
    batch = Batch(inputs={"input": torch.zeros(2)}, mask=torch.ones(2, dtype=torch.bool))
    total, positions = BinaryKL(1.0)(Signals(torch.ones(2, 1)), Signals(torch.zeros(2, 1)), batch)
    assert positions == 2
    assert total.item() == pytest.approx(oracle([[1.0], [1.0]], [[0.0], [0.0]], 1.0))
