import numpy as np
import torch

from distill.losses.cosine import cosine_distance


def test_value_and_gradient_are_those_of_one_minus_the_cosine(agrees):
    teacher, weights = torch.randn(2, 3, 4).double(), torch.tensor([[0.5, 0.5, 0.0], [1.0, 0.0, 0.0]])

    def oracle(s):
        t, total = teacher.numpy(), 0.0
        for b, i in np.ndindex(2, 3):
            x, y = s[b, i], t[b, i]
            total += weights[b, i].item() * (1 - x @ y / np.sqrt((x @ x) * (y @ y)))
        return total

    agrees(lambda s: cosine_distance(s, teacher, weights), oracle, torch.randn(2, 3, 4))


def test_zero_vectors_give_finite_gradients():
    s = torch.zeros(1, 2, 3, requires_grad=True)
    cosine_distance(s, torch.zeros(1, 2, 3), torch.ones(1, 2)).backward()
    assert s.grad.isfinite().all()
