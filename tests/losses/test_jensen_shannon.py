import numpy as np
import pytest
import torch

from distill.core.utils.errors import UserError
from distill.losses import JensenShannon
from distill.losses.hinton import hinton_kl
from distill.losses.jensen_shannon import jensen_shannon
from distill.losses.reverse import reverse_kl


def oracle(student, teacher, beta, t):
    total = 0.0
    for s, z in zip(student, teacher, strict=True):
        q, p = np.exp(s / t) / np.exp(s / t).sum(), np.exp(z / t) / np.exp(z / t).sum()
        m = beta * p + (1 - beta) * q
        total += beta * (p * np.log(p / m)).sum() + (1 - beta) * (q * np.log(q / m)).sum()
    return t**2 * total


@pytest.mark.parametrize("beta", [0.1, 0.5, 0.9])
def test_value_and_gradient_are_those_of_the_formula(agrees, beta):
    teacher = torch.randn(3, 4).double()
    agrees(
        lambda s: jensen_shannon(s, teacher, beta, 2.0),
        lambda s: oracle(s, teacher.numpy(), beta, 2.0),
        torch.randn(3, 4),
    )


def test_the_ends_are_what_the_formula_tends_to_in_proportion():
    s, t, near = torch.randn(3, 4).double(), torch.randn(3, 4).double(), 1e-6
    torch.testing.assert_close(jensen_shannon(s, t, near) / near, hinton_kl(s, t), rtol=1e-4, atol=0)
    torch.testing.assert_close(jensen_shannon(s, t, 1 - near) / near, reverse_kl(s, t), rtol=1e-4, atol=0)
    torch.testing.assert_close(jensen_shannon(s, t, 0.0, 2.0), hinton_kl(s, t, 2.0))
    torch.testing.assert_close(jensen_shannon(s, t, 1.0, 2.0), reverse_kl(s, t, 2.0))


def test_it_is_symmetric_at_one_half():
    s, t = torch.randn(3, 4), torch.randn(3, 4)
    torch.testing.assert_close(jensen_shannon(s, t, 0.5), jensen_shannon(t, s, 0.5))


def test_it_stays_finite_where_the_models_contradict_each_other():
    s = torch.tensor([[200.0, -200.0]], requires_grad=True)
    value = jensen_shannon(s, -s.detach(), 0.5)
    value.backward()
    torch.testing.assert_close(value, torch.tensor(2.0).log())
    assert s.grad.isfinite().all()


@pytest.mark.parametrize("beta", [-0.1, 1.1, float("nan")])
def test_a_beta_outside_zero_to_one_is_refused(beta):
    with pytest.raises(UserError, match="beta = "):
        JensenShannon(beta=beta)
