"""Sums over rows hold one gradient."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from distill.losses import blockwise as rows


class Allocations(TorchDispatchMode):
    """Storages of at least so many bytes that operations made inside."""

    def __init__(self, least: int) -> None:
        super().__init__()
        self.least, self.made = least, set[int]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        before = {t.untyped_storage().data_ptr() for t in args if isinstance(t, Tensor)}
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple) else (out,):
            if isinstance(tensor, Tensor) and tensor.untyped_storage().nbytes() >= self.least:
                self.made |= {tensor.untyped_storage().data_ptr()} - before
        return out


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "_CPU_BLOCK", 32)


def test_forward_and_backward_hold_one_gradient_between_them() -> None:
    logits = torch.randn(20, 8, requires_grad=True)
    with Allocations(logits.numel() * 4) as found:
        total = rows.sum_over_rows(lambda s: (s**3).sum(), logits)
        (gradient,) = torch.autograd.grad(total * 0.5, logits)
    assert len(found.made) == 1
    torch.testing.assert_close(gradient, 1.5 * logits.detach() ** 2)


def test_a_graph_that_is_retained_gives_the_same_gradient_again() -> None:
    logits = torch.randn(20, 8, requires_grad=True)
    total = rows.sum_over_rows(lambda s: (s**3).sum(), logits)
    for factor in (0.5, 0.0, 2.0):
        (gradient,) = torch.autograd.grad(total * factor, logits, retain_graph=factor < 2)
        torch.testing.assert_close(gradient, 3 * factor * logits.detach() ** 2)


def test_rows_that_fill_no_block_count_too() -> None:
    logits = torch.randn(23, 8, dtype=torch.float64, requires_grad=True)  # five blocks of four, and three
    total = rows.sum_over_rows(lambda s: (s**3).sum(), logits)
    (gradient,) = torch.autograd.grad(total, logits)
    torch.testing.assert_close(total, (logits.detach() ** 3).sum())
    torch.testing.assert_close(gradient, 3 * logits.detach() ** 2)


def test_a_gradient_too_small_for_half_precision_outlives_until_the_loss_scale_is_applied() -> None:
    logits = torch.ones(20, 8, dtype=torch.float16, requires_grad=True)
    total = rows.sum_over_rows(lambda s: 1e-9 * s.sum(), logits)  # float16 begins at 6e-8
    (gradient,) = torch.autograd.grad(total * 2.0**20, logits)
    assert gradient.dtype is torch.float16
    torch.testing.assert_close(gradient, torch.full_like(logits, 1e-9 * 2.0**20), rtol=1e-3, atol=0.0)
