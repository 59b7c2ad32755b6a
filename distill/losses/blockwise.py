"""Row-wise losses over large logits: a few rows at a time, in one pass over the memory.

A divergence of two ``[N, C]`` tensors written with the operations of torch makes some eight temporaries of
that size, and is limited by the memory they cross. It is a sum over rows, so it can be computed for a block of
rows whose temporaries stay in the cache, and its gradient with it; only the gradient is ever as large as the logits,
and there is one of it: a backward pass that does not retain the graph scales it where it lies.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from distill.core.internals.torch import graph_is_kept
from distill.core.numerics import at_least_float32

__all__ = ["sum_over_rows"]

_CPU_BLOCK = 2**18
"""Elements of a block on the CPU: 1 MiB of float32, so that a block's temporaries stay in its cache."""

_ACCELERATOR_BLOCK = 2**26
"""Elements of a block elsewhere: large enough that starting its kernels costs nothing beside running them."""


def sum_over_rows(formula: Callable[..., Tensor], student_NC: Tensor, *others: Tensor) -> Tensor:
    """formula(student_NC, ``*others``), for a formula that is a sum of independent terms of the rows.

    Args:
        formula: Tensors to a scalar. It gets rows ``[n, C]`` of the student in float32 or better, and the same rows
            of the others, those of a float dtype likewise converted.
        student_NC: The one tensor that the result is differentiable in, once.
        others: Tensors whose first dimension is N.

    Returns:
        A scalar in at least float32.
    """
    block = _CPU_BLOCK if student_NC.device.type == "cpu" else _ACCELERATOR_BLOCK
    rows = max(1, block // max(1, student_NC[0:1].numel()))
    if len(student_NC) <= rows:
        return formula(at_least_float32(student_NC), *(_converted(other) for other in others))
    total: Tensor = _RowSum.apply(formula, rows, student_NC, *others)  # type: ignore[no-untyped-call]
    return total


def _converted(tensor: Tensor) -> Tensor:
    return at_least_float32(tensor) if tensor.is_floating_point() else tensor


class _RowSum(Function):
    """Value and gradient of a sum over rows, block by block."""

    @staticmethod
    def forward(ctx: Any, formula: Callable[..., Tensor], rows: int, student_NC: Tensor, *others: Tensor) -> Tensor:
        wide = torch.promote_types(student_NC.dtype, torch.float32)
        total = torch.zeros((), dtype=wide, device=student_NC.device)
        # In float32 also for half-precision logits: a loss scale is applied later, and what has
        # already been flushed to zero would stay zero.
        gradient = torch.empty_like(student_NC, dtype=wide) if ctx.needs_input_grad[2] else None
        for start in range(0, len(student_NC), rows):
            part = slice(start, start + rows)
            others_nC = [_converted(other[part]) for other in others]
            student_nC = at_least_float32(student_NC[part]).detach()
            if gradient is None:
                total += formula(student_nC, *others_nC)
                continue
            with torch.enable_grad():
                value = formula(student_nC.requires_grad_(), *others_nC)
            (gradient[part],) = torch.autograd.grad(value, student_nC)
            total += value.detach()
        ctx.dtype, ctx.others = student_NC.dtype, len(others)
        if gradient is not None:
            ctx.save_for_backward(gradient)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, output: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        kept = graph_is_kept()  # retain_graph: another pass may come
        gradient = gradient * output if kept else gradient.mul_(output)
        return None, None, gradient.to(ctx.dtype), *([None] * ctx.others)
