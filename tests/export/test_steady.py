"""A student whose answers no file can give again is refused by its own name, and one that mixes its batch is said."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from distill.core.signals import Batch
from distill.core.utils.errors import UserError
from distill.export.student import export, steady
from distill.tasks import Plain


class Net(nn.Linear):
    def __init__(self, compute: Callable[[Tensor], Tensor]) -> None:
        super().__init__(4, 3)
        self.compute = compute

    def forward(self, input: Tensor) -> Tensor:
        return self.compute(super().forward(input))


def test_a_student_that_draws_random_numbers_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    data: Any = DataLoader(TensorDataset(torch.randn(8, 4), torch.arange(8) % 3), 4)
    with pytest.raises(UserError, match=r"other answers to the same inputs in evaluation .* no file could repeat"):
        export(Net(nn.functional.dropout).eval(), "onnx", tmp_path / "made", data)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("compute", "said"), [(lambda y: y - y.mean(0), "is alone in its batch"), (nn.Identity(), "")])
def test_a_student_that_mixes_its_batch_is_said(compute: Callable[[Tensor], Tensor], said: str) -> None:
    lines = steady(Net(compute).train(), Plain(), Batch({"input": torch.randn(6, 4)}))
    assert len(lines) == bool(said)
    assert said in "".join(lines)
