import itertools

import numpy as np
import pytest
import torch

from distill.core.utils.errors import UserError
from distill.losses import RelationalKD
from distill.losses.relational_kd import relational_angle, relational_distance

VALID = torch.tensor([True, False, True, True, True])
CHOSEN = (0, 2, 3, 4)


def huber(x, y):
    d = abs(x - y)
    return d * d / 2 if d <= 1 else d - 0.5


def distance_oracle(student, teacher):
    pairs = list(itertools.permutations(CHOSEN, 2))
    s, t = ([np.linalg.norm(x[i] - x[j]) for i, j in pairs] for x in (student, teacher))
    return np.mean([huber(a / np.mean(s), b / np.mean(t)) for a, b in zip(s, t, strict=True)])


def angle_oracle(student, teacher):
    def cosine(x, i, j, k):
        a, b = x[i] - x[j], x[k] - x[j]
        return a @ b / np.linalg.norm(a) / np.linalg.norm(b)

    triples = list(itertools.permutations(CHOSEN, 3))
    return np.mean([huber(cosine(student, *ijk), cosine(teacher, *ijk)) for ijk in triples])


@pytest.mark.parametrize(("loss", "oracle"), [(relational_distance, distance_oracle), (relational_angle, angle_oracle)])
def test_value_and_gradient_are_those_of_the_formula_over_valid_samples(agrees, loss, oracle):
    teacher = torch.randn(5, 3).double()
    agrees(lambda s: loss(s, teacher, VALID), lambda s: oracle(s, teacher.numpy()), torch.randn(5, 2))


@pytest.mark.parametrize("loss", [relational_distance, relational_angle])
@pytest.mark.parametrize("size", [0, 1, 2])
def test_too_few_samples_give_zero_with_zero_gradient(loss, size):
    s = torch.randn(3, 4, requires_grad=True)
    value = loss(s, torch.randn(3, 4), torch.arange(3) < (size if loss is relational_angle else min(size, 1)))
    value.backward()
    assert value == 0
    assert not s.grad.any()


@pytest.mark.parametrize("loss", [relational_distance, relational_angle])
def test_coinciding_samples_give_finite_gradients(loss):
    s = torch.ones(4, 3, requires_grad=True)
    loss(s, torch.randn(4, 3), torch.ones(4, dtype=torch.bool)).backward()
    assert s.grad.isfinite().all()


@pytest.mark.parametrize("argument", ["distance_weight", "angle_weight"])
def test_a_negative_weight_of_a_part_is_refused(argument):
    with pytest.raises(UserError, match=argument):
        RelationalKD(**{argument: -1.0})


@pytest.mark.parametrize("taps", [{}, {"a": "b", "c": "d"}])
def test_taps_must_be_one_pair(taps):
    with pytest.raises(UserError, match="taps"):
        RelationalKD(taps=taps)
