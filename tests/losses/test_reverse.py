import numpy as np
import pytest
import torch

from distill.losses.hinton import hinton_kl
from distill.losses.reverse import reverse_kl


def oracle(student, teacher, t):
    total = 0.0
    for s, z in zip(student, teacher, strict=True):
        q, p = np.exp(s / t) / np.exp(s / t).sum(), np.exp(z / t) / np.exp(z / t).sum()
        total += sum(q[c] * np.log(q[c] / p[c]) for c in range(len(q)))
    return t**2 * total


@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_value_and_gradient_are_those_of_kl_of_the_student_from_the_teacher(agrees, temperature):
    teacher = torch.randn(3, 4).double()
    agrees(
        lambda s: reverse_kl(s, teacher, temperature),
        lambda s: oracle(s, teacher.numpy(), temperature),
        torch.randn(3, 4),
    )


def test_it_is_forward_kl_with_the_models_exchanged():
    a, b = torch.randn(3, 4), torch.randn(3, 4)
    torch.testing.assert_close(reverse_kl(a, b, 2.0), hinton_kl(b, a, 2.0))
