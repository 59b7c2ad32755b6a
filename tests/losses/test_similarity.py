import numpy as np
import torch

from distill.core.signals import Batch, Signals
from distill.losses import SimilarityPreserving
from distill.losses.similarity import similarity_preserving


def test_value_and_gradient_are_those_of_the_formula_over_valid_samples(agrees):
    teacher, valid = torch.randn(4, 3).double(), torch.tensor([True, True, False, True])

    def oracle(s):
        rows = [0, 1, 3]
        total = 0.0
        g = {}
        for name, x in (("s", s), ("t", teacher.numpy())):
            g[name] = np.array([[x[i] @ x[j] for j in rows] for i in rows])
            g[name] = np.array([row / np.sqrt((row**2).sum()) for row in g[name]])
        for i, j in np.ndindex(3, 3):
            total += (g["s"][i, j] - g["t"][i, j]) ** 2 / 9
        return total

    agrees(lambda s: similarity_preserving(s, teacher, valid), oracle, torch.randn(4, 2))


def test_feature_maps_are_flattened():
    ours, theirs = torch.randn(3, 2, 4, 4), torch.randn(3, 5, 2, 2)
    loss = SimilarityPreserving(taps={"a": "b"})
    batch = Batch(inputs={"x": torch.zeros(3, 1)})
    total, positions = loss(Signals(taps={"a": ours}), Signals(taps={"b": theirs}), batch)
    valid = torch.ones(3, dtype=torch.bool)
    assert positions == 3
    torch.testing.assert_close(total, 3 * similarity_preserving(ours.flatten(1), theirs.flatten(1), valid))
