import numpy as np
import torch

from distill.losses.attention import attention_mse


def test_value_and_gradient_are_those_of_the_mean_over_heads_and_real_pairs(agrees):
    teacher = torch.rand(2, 2, 3, 3).double()
    tokens = torch.tensor([[True, True, False], [True, True, True]])
    weights = torch.tensor([[1.0, 1.0, 0.0], [1.0, 1.0, 1.0]]).double() / torch.tensor([[2.0], [3.0]]).double()

    def oracle(s):
        t, total = teacher.numpy(), 0.0
        for b, length in enumerate((2, 3)):
            squares = [(s[b, a, i, j] - t[b, a, i, j]) ** 2 for a, i, j in np.ndindex(2, length, length)]
            total += sum(squares) / len(squares)
        return total

    agrees(lambda s: attention_mse(s, teacher, weights, tokens), oracle, torch.rand(2, 2, 3, 3))
