import numpy as np
import pytest
import torch

from distill.core.signals import IGNORE, Batch, Signals
from distill.core.utils.errors import UserError
from distill.losses import DecoupledKD
from distill.losses.dkd import decoupled_kd
from distill.losses.hinton import hinton_kl


def oracle(student, teacher, labels, alpha, beta, t):
    total = 0.0
    for s, z, y in zip(student, teacher, labels, strict=True):
        if y == IGNORE:
            continue
        q, p = np.exp(s / t) / np.exp(s / t).sum(), np.exp(z / t) / np.exp(z / t).sum()
        tckd = p[y] * np.log(p[y] / q[y]) + (1 - p[y]) * np.log((1 - p[y]) / (1 - q[y]))
        others = [c for c in range(len(q)) if c != y]
        nckd = sum(p[c] / (1 - p[y]) * np.log((p[c] / (1 - p[y])) / (q[c] / (1 - q[y]))) for c in others)
        total += alpha * tckd + beta * nckd
    return t**2 * total


def test_value_and_gradient_are_those_of_the_formula(agrees):
    teacher, labels = torch.randn(4, 5).double(), torch.tensor([0, 4, IGNORE, 2])
    agrees(
        lambda s: decoupled_kd(s, teacher, labels, 1.5, 8.0, 2.0),
        lambda s: oracle(s, teacher.numpy(), labels.tolist(), 1.5, 8.0, 2.0),
        torch.randn(4, 5),
    )


def test_with_beta_one_minus_the_targets_probability_it_is_forward_kl():
    s, t, y = torch.randn(1, 5).double(), torch.randn(1, 5).double(), torch.tensor([3])
    others = 1 - float((t / 2).softmax(-1)[0, 3])
    torch.testing.assert_close(decoupled_kd(s, t, y, 1.0, others, 2.0), hinton_kl(s, t, 2.0))


def test_a_teacher_that_is_certain_gives_finite_gradients():
    s = torch.randn(2, 3, requires_grad=True)
    decoupled_kd(s, torch.tensor([[90.0, -90.0, 0.0]] * 2), torch.tensor([0, 1]), temperature=1.0).backward()
    assert s.grad.isfinite().all()


def test_with_two_classes_only_the_targets_part_is_left():
    s, t, y = torch.randn(3, 2), torch.randn(3, 2), torch.tensor([0, 1, 1])
    torch.testing.assert_close(decoupled_kd(s, t, y, 1.0, 100.0), decoupled_kd(s, t, y, 1.0, 0.0))


@pytest.mark.parametrize("labels", [None, torch.zeros(2)])
def test_data_without_classes_is_refused(labels):
    signals = Signals(logits=torch.randn(2, 3))
    with pytest.raises(UserError, match="classes as labels"):
        DecoupledKD()(signals, signals, Batch(inputs={"x": torch.zeros(2, 1)}, labels=labels))


@pytest.mark.parametrize("argument", ["alpha", "beta"])
def test_a_negative_weight_of_a_part_is_refused(argument):
    with pytest.raises(UserError, match=argument):
        DecoupledKD(**{argument: -1.0})
