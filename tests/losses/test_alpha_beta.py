import numpy as np
import pytest
import torch

from distill.core.utils.errors import UserError
from distill.losses import AlphaBeta
from distill.losses.alpha_beta import alpha_beta
from distill.losses.hinton import hinton_kl
from distill.losses.reverse import reverse_kl


def oracle(student, teacher, a, b, t):
    total = 0.0
    for s, z in zip(student, teacher, strict=True):
        q, p = np.exp(s / t) / np.exp(s / t).sum(), np.exp(z / t) / np.exp(z / t).sum()
        total -= (p**a * q**b - a / (a + b) * p ** (a + b) - b / (a + b) * q ** (a + b)).sum() / (a * b)
    return t**2 * total


@pytest.mark.parametrize(("alpha", "beta"), [(0.2, 0.7), (0.8, 0.3), (0.5, 0.5)])
def test_value_and_gradient_are_those_of_the_formula(agrees, alpha, beta):
    teacher = torch.randn(3, 4).double()
    agrees(
        lambda s: alpha_beta(s, teacher, alpha, beta, 2.0),
        lambda s: oracle(s, teacher.numpy(), alpha, beta, 2.0),
        torch.randn(3, 4),
    )


@pytest.mark.parametrize(("alpha", "beta"), [(0.6, 0.0), (0.0, 0.6)])
def test_where_one_of_them_is_0_it_is_what_the_formula_tends_to(agrees, alpha, beta):
    student, teacher = torch.randn(3, 4).double(), torch.randn(3, 4).double()
    near = oracle(student.numpy(), teacher.numpy(), alpha or 1e-6, beta or 1e-6, 1.0)
    assert alpha_beta(student, teacher, alpha, beta).item() == pytest.approx(near, rel=1e-4)


def test_its_corners_are_forward_and_reverse_kl():
    s, t = torch.randn(3, 4).double(), torch.randn(3, 4).double()
    torch.testing.assert_close(alpha_beta(s, t, 1.0, 0.0, 2.0), hinton_kl(s, t, 2.0))
    torch.testing.assert_close(alpha_beta(s, t, 0.0, 1.0, 2.0), reverse_kl(s, t, 2.0))


def test_one_and_one_is_half_the_squared_error_of_the_probabilities():
    s, t = torch.randn(3, 4).double(), torch.randn(3, 4).double()
    torch.testing.assert_close(alpha_beta(s, t, 1.0, 1.0), 0.5 * (s.softmax(-1) - t.softmax(-1)).square().sum())


@pytest.mark.parametrize(("alpha", "beta"), [(-0.1, 1.0), (1.0, -0.1), (0.0, 0.0)])
def test_what_has_no_bound_or_no_meaning_is_refused(alpha, beta):
    with pytest.raises(UserError, match=r"(alpha|beta) = "):
        AlphaBeta(alpha, beta)
