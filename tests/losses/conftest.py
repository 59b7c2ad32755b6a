from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

Array = NDArray[np.float64]


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture
def agrees() -> Callable[..., None]:
    """Check a loss against an oracle: its value, and its gradient against central differences of the oracle."""

    def check(loss: Callable[[Tensor], Tensor], oracle: Callable[[Array], float], student: Tensor) -> None:
        student = student.detach().double().requires_grad_()
        value = loss(student)
        value.backward()
        assert student.grad is not None
        x = student.detach().numpy().copy()
        np.testing.assert_allclose(value.item(), oracle(x), rtol=1e-6, atol=1e-9)
        expected = np.zeros_like(x)
        for index in np.ndindex(*x.shape):
            there, back = x.copy(), x.copy()
            there[index] += 1e-5
            back[index] -= 1e-5
            expected[index] = (oracle(there) - oracle(back)) / 2e-5
        np.testing.assert_allclose(student.grad.numpy(), expected, rtol=1e-4, atol=1e-6)

    return check
