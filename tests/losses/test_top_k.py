import numpy as np
import pytest
import torch

from distill.core.utils.errors import UserError
from distill.losses import TopKKL
from distill.losses.hinton import hinton_kl
from distill.losses.top_k import top_k_kl


def oracle(student, teacher, k, t):
    total = 0.0
    for s, z in zip(student, teacher, strict=True):
        q, p = np.exp(s / t) / np.exp(s / t).sum(), np.exp(z / t) / np.exp(z / t).sum()
        top = np.argsort(-z)[:k]
        total += sum(p[c] * np.log(p[c] / q[c]) for c in top)
        rest = [c for c in range(len(z)) if c not in top]
        total += p[rest].sum() * np.log(p[rest].sum() / q[rest].sum())
    return t**2 * total


@pytest.mark.parametrize("k", [1, 3])
def test_value_and_gradient_are_those_of_the_top_and_one_bucket(agrees, k):
    teacher = torch.randn(3, 6).double()
    agrees(lambda s: top_k_kl(s, teacher, k, 2.0), lambda s: oracle(s, teacher.numpy(), k, 2.0), torch.randn(3, 6))


def test_of_all_classes_it_is_forward_kl_and_of_fewer_it_is_less():
    s, t = torch.randn(3, 6), torch.randn(3, 6)
    assert [top_k_kl(s, t, k).item() for k in (6, 99)] == [hinton_kl(s, t).item()] * 2
    assert top_k_kl(s, t, 2) < hinton_kl(s, t)


def test_a_student_whose_tail_has_the_right_sum_is_free_in_it():
    teacher = torch.tensor([[5.0, 4.0, 1.0, 0.0, 0.0]])
    student = teacher[:, [0, 1, 4, 2, 3]].clone().requires_grad_()
    loss = top_k_kl(student, teacher, 2)
    (gradient,) = torch.autograd.grad(loss, student)
    torch.testing.assert_close(loss, torch.tensor(0.0), rtol=0, atol=1e-6)
    torch.testing.assert_close(gradient, torch.zeros(1, 5), rtol=0, atol=1e-6)


def test_a_tail_far_below_the_rounding_of_1_has_its_gradient_all_the_same():
    teacher, student = torch.tensor([[40.0, 0.0, 0.0]]), torch.tensor([[30.0, 0.0, 0.0]])
    exact = top_k_kl(student.double(), teacher.double(), 1)
    torch.testing.assert_close(top_k_kl(student, teacher, 1).double(), exact, rtol=1e-4, atol=1e-12)


def test_no_class_at_all_is_refused():
    with pytest.raises(UserError, match="k = 0"):
        TopKKL(k=0)
