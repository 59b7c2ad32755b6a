import numpy as np
import pytest
import torch

from distill.core.utils.errors import UserError
from distill.losses import DIST
from distill.losses.dist import dist_kd


def pearson(x, y):
    x, y = x - x.mean(), y - y.mean()
    return (x * y).sum() / np.sqrt((x * x).sum() * (y * y).sum())


def oracle(student, teacher, beta, gamma, t):
    q = np.array([np.exp(s / t) / np.exp(s / t).sum() for s in student])
    p = np.array([np.exp(s / t) / np.exp(s / t).sum() for s in teacher])
    inter = np.mean([1 - pearson(q[n], p[n]) for n in range(len(q))])
    intra = np.mean([1 - pearson(q[:, c], p[:, c]) for c in range(q.shape[1])])
    return len(q) * t**2 * (beta * inter + gamma * intra)


def test_value_and_gradient_are_those_of_the_formula(agrees):
    teacher = torch.randn(4, 5).double()
    agrees(
        lambda s: dist_kd(s, teacher, 1.5, 0.7, 2.0),
        lambda s: oracle(s, teacher.numpy(), 1.5, 0.7, 2.0),
        torch.randn(4, 5),
    )


def test_rare_classes_correlate_as_frequent_ones_do():
    s, t = torch.randn(4, 3).double(), torch.randn(4, 3).double()
    rare = torch.tensor([0.0, 0.0, -30.0])
    expected = oracle((s + rare).numpy(), (t + rare).numpy(), 0.0, 1.0, 1.0)
    torch.testing.assert_close(
        dist_kd((s + rare).float(), (t + rare).float(), 0.0, 1.0).item(), expected, rtol=1e-4, atol=0
    )


def test_a_single_position_has_no_intra_class_part():
    s, t = torch.randn(1, 4), torch.randn(1, 4)
    torch.testing.assert_close(dist_kd(s, t, 1.0, 5.0), dist_kd(s, t, 1.0, 0.0))


def test_constant_predictions_give_finite_gradients():
    s = torch.zeros(3, 4, requires_grad=True)
    dist_kd(s, torch.randn(3, 4)).backward()
    assert s.grad.isfinite().all()


@pytest.mark.parametrize("argument", ["beta", "gamma"])
def test_a_negative_weight_of_a_part_is_refused(argument):
    with pytest.raises(UserError, match=argument):
        DIST(**{argument: -1.0})
