import numpy as np
import pytest
import torch

from distill.core.utils.errors import UserError
from distill.losses import SkewKL
from distill.losses.hinton import hinton_kl
from distill.losses.skew import skew_kl


def oracle(student, teacher, alpha, t):
    total = 0.0
    for s, z in zip(student, teacher, strict=True):
        q, p = np.exp(s / t) / np.exp(s / t).sum(), np.exp(z / t) / np.exp(z / t).sum()
        total += (p * np.log(p / (alpha * p + (1 - alpha) * q))).sum()
    return t**2 * total


@pytest.mark.parametrize("alpha", [0.1, 0.7])
def test_value_and_gradient_are_those_of_the_formula(agrees, alpha):
    teacher = torch.randn(3, 4).double()
    agrees(
        lambda s: skew_kl(s, teacher, alpha, 2.0), lambda s: oracle(s, teacher.numpy(), alpha, 2.0), torch.randn(3, 4)
    )


def test_without_skew_it_is_forward_kl():
    s, t = torch.randn(3, 4), torch.randn(3, 4)
    torch.testing.assert_close(skew_kl(s, t, 0.0, 2.0), hinton_kl(s, t, 2.0))


def test_it_is_bounded_by_minus_log_alpha_where_forward_kl_is_not():
    s, t = torch.tensor([[100.0, -100.0]]), torch.tensor([[-100.0, 100.0]])
    torch.testing.assert_close(skew_kl(s, t, 0.1), -torch.tensor(0.1).log())


@pytest.mark.parametrize("alpha", [-0.1, 1.0])
def test_an_alpha_out_of_range_is_refused(alpha):
    with pytest.raises(UserError, match="alpha = "):
        SkewKL(alpha=alpha)
