"""Losses over a vocabulary, of logits that are never there as a whole.

Row-wise losses are sums over positions. So a block of positions is taken at a time: its logits of student and
teacher are made by a matrix product, all losses and their gradient with respect to these logits are computed together,
the gradient is written where the student's logits were, and two more products make of it the gradients of the hidden
states and of the head. Beside these gradients nothing is ever larger than a block.

The four products are most of the work. What lies between them is done on a few rows at a time, which stay in the
cache, by the losses' own ``forward``: any loss that says that it is row-wise is computed so.

References:
    Hsu et al.: Liger Kernel: Efficient Triton Kernels for LLM Training, 2024 (cross entropy and fixed divergences).
    Wijmans et al.: Cut Your Losses in Large-Vocabulary Language Models, ICLR 2025 (cross entropy).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from distill.core.internals.torch import graph_is_kept
from distill.core.lazy_logits import LazyLogits
from distill.core.numerics import at_least_float32, full_precision
from distill.core.signals import TEACHER_AT, TEACHER_PATH, Batch, Signals
from distill.core.sparse_logits import SparseLogits
from distill.core.utils.errors import UserError
from distill.losses.base import DistillationLoss, counted
from distill.losses.contract import term
from distill.losses.softened import Scratch, Softened

__all__ = ["head_terms"]

_BLOCK = 25 * 2**20
"""Logits of a block: 100 MiB of float32. Large enough for products at full speed."""

_CPU_ROWS = 2**19
"""Logits that losses are computed of at once on the CPU: 2 MiB of float32, so that temporaries stay in the cache."""


def head_terms(
    losses: Sequence[DistillationLoss],
    student: LazyLogits,
    teacher: LazyLogits | SparseLogits | Tensor | None,
    batch: Batch,
) -> tuple[Tensor, list[Tensor]]:
    """The losses summed over the positions that count: weighted and added up, and each as it is.

    Args:
        losses: Row-wise (:attr:`DistillationLoss.row_wise`); each weighs as its schedule says at ``batch.step``.
        student: Of all positions, ``[B, T, V]``.
        teacher: Likewise, or its logits, or none; or sparse ones of the positions that count. Its vocabulary may be
            padded to another width.
        batch: With labels and mask.

    Returns:
        A scalar in at least float32, differentiable, once, in the student's hidden states, weight and bias; and the
        sum of every loss, without a graph.
    """
    ours = student.at(batch.mask)
    theirs: LazyLogits | SparseLogits | Tensor | None
    if isinstance(teacher, LazyLogits):
        theirs = teacher.at(batch.mask).detached()
    elif isinstance(teacher, SparseLogits):
        theirs = teacher
    else:
        theirs = None if teacher is None else counted(batch.mask, teacher.flatten(0, -2))[0]
    labels = None if batch.labels is None else counted(batch.mask, _a_row_each(batch.labels, batch.mask))[0]
    aligned = {name: batch.extras[name] for name in (TEACHER_AT, TEACHER_PATH) if name in batch.extras}
    paired = {name: counted(batch.mask, x.flatten())[0] for name, x in aligned.items()}
    weights = [loss.weight(batch.step, batch.total_steps) for loss in losses]
    rows = _Rows(losses, ours, theirs, labels, paired, batch, weights)
    total, sums = _HeadTerms.apply(rows, ours.hidden, ours.weight, ours.bias)  # type: ignore[no-untyped-call]
    return total, list(sums.unbind())


def _a_row_each(labels: Tensor, mask: Tensor | None) -> Tensor:
    """Labels of all positions ``[M]``, or rows of probabilities ``[M, C]``."""
    rows = labels.is_floating_point() and mask is not None and labels.dim() > mask.dim()
    return labels.flatten(0, -2) if rows else labels.flatten()


@dataclass
class _Rows:
    """What is computed of N rows."""

    losses: Sequence[DistillationLoss]
    student: LazyLogits
    teacher: LazyLogits | SparseLogits | Tensor | None
    labels_N: Tensor | None
    paired: Mapping[str, Tensor]
    batch: Batch
    weights: Sequence[float]
    scratch: Scratch = field(default_factory=Scratch)

    def sums(self, part: slice, student_nV: Tensor, teacher_nV: Tensor | None, trains: bool) -> tuple[Tensor, Tensor]:
        """The sum of every loss over some rows; and of the weighted ones the gradient, ``[n, V]``, if one is needed."""
        labels_n = None if self.labels_N is None else self.labels_N[part]
        step, total_steps = self.batch.step, self.batch.total_steps
        extras = {name: one[part] for name, one in self.paired.items()}
        batch = Batch({"rows": student_nV}, labels=labels_n, extras=extras, step=step, total_steps=total_steps)
        known: dict[tuple[float, bool], Softened] = {}
        self.scratch.free()

        def at(temperature: float, alone: bool = False) -> Softened:
            alone = teacher_nV is None or (alone and teacher_nV.shape[-1] != student_nV.shape[-1])
            made = known.get((temperature, alone))
            if made is None:
                made = known[temperature, alone] = Softened(
                    student_nV, None if alone else teacher_nV, temperature, self.scratch
                )
            return made

        gradient = self.scratch.take(student_nV).zero_() if trains else student_nV
        found: dict[int, Tensor] = {}
        for number, (loss, weight) in enumerate(zip(self.losses, self.weights, strict=True)):
            closed = _closed_form(loss)(at, batch, gradient if trains and weight else None, weight)
            if closed is not None:
                found[number] = closed
        left = [number for number in range(len(self.losses)) if number not in found]
        if left:
            ours = student_nV.detach().requires_grad_(trains)
            with torch.set_grad_enabled(trains):
                signals = Signals(ours), Signals(teacher_nV)
                found |= {number: self._term(self.losses[number], *signals, batch) for number in left}
                weighted = [self.weights[number] * found[number] for number in left if self.weights[number]]
                if trains and weighted:
                    gradient += torch.autograd.grad(torch.stack(weighted).sum(), ours)[0]
        return torch.stack([found[number].detach() for number in range(len(self.losses))]), gradient

    @staticmethod
    def _term(loss: DistillationLoss, student: Signals, teacher: Signals, batch: Batch) -> Tensor:
        given = term(loss, student, teacher, batch)
        # Of most it is the very tensor, and the device need not be waited for.
        if given.positions is not batch.count and int(given.positions) != int(batch.count):
            problem = "its positions are not batch.count, so that it cannot be computed of some predictions at a time"
            raise UserError(problem, key=loss.name, hint="leave out row_wise, or return LossSum(total, batch.count)")
        return given.total


def _closed_form(loss: DistillationLoss) -> Callable[..., Tensor | None]:
    """What ``loss`` says of its gradient, unless a class has changed since what it computes."""
    for kind in type(loss).__mro__:
        if "closed_form" in vars(kind):
            return loss.closed_form
        if vars(kind).keys() & {"forward", "summed", "divergence"}:
            break
    return lambda *_: None


class _HeadTerms(Function):
    """Value and gradients of a weighted sum of losses, block by block."""

    @staticmethod
    def forward(ctx: Any, rows: _Rows, hidden: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
        with full_precision(hidden):
            total, sums, gradients = _walk(rows, hidden, weight, bias, ctx.needs_input_grad[1:])
        ctx.save_for_backward(*gradients)
        ctx.mark_non_differentiable(sums)
        ctx.dtypes = [None if of is None else of.dtype for of in (hidden, weight, bias)]
        return total, sums

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, output: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        kept = graph_is_kept()  # retain_graph: another pass may come
        gradients = [
            None if saved is None else (saved * output if kept else saved.mul_(output)).to(dtype)
            for saved, dtype in zip(ctx.saved_tensors, ctx.dtypes, strict=True)
        ]
        return None, *gradients


def _walk(
    rows: _Rows, hidden: Tensor, weight: Tensor, bias: Tensor | None, wanted: Sequence[bool]
) -> tuple[Tensor, Tensor, list[Tensor | None]]:
    """The weighted sum, each sum, and the gradients ``wanted`` of hidden states, weight and bias."""
    exact = torch.promote_types(hidden.dtype, torch.float32)
    trains, width = any(wanted), len(weight)
    sums = hidden.new_zeros(len(rows.losses), dtype=exact)
    gradients = [
        None if of is None or not want else torch.zeros_like(of, dtype=exact)
        for of, want in zip((hidden, weight, bias), wanted, strict=True)
    ]
    student = replace(rows.student, hidden=_operand(hidden), weight=_operand(weight), bias=bias)
    teacher = rows.teacher
    if isinstance(teacher, LazyLogits):
        teacher = replace(teacher, hidden=_operand(teacher.hidden), weight=_operand(teacher.weight))
    size = max(1, min(len(hidden), _BLOCK // width))
    few = max(1, (_CPU_ROWS if hidden.device.type == "cpu" else _BLOCK) // width)
    ours = hidden.new_empty(size, width, dtype=exact)
    theirs = ours.new_empty(size, teacher.width) if isinstance(teacher, LazyLogits) else None
    for start in range(0, len(hidden), size):
        block = slice(start, min(len(hidden), start + size))
        products = _products(student, block, ours)
        expected: Tensor | None
        if isinstance(teacher, LazyLogits) and theirs is not None:
            expected = _products(teacher, block, theirs)
        else:
            expected = teacher[block] if isinstance(teacher, Tensor) else None
        for first in range(0, len(products), few):
            part, at = slice(first, first + few), slice(start + first, min(block.stop, start + first + few))
            given = None if expected is None else at_least_float32(expected[part])
            if given is not None and isinstance(teacher, LazyLogits):
                given = teacher.curve(given)
            elif isinstance(teacher, SparseLogits):
                given = teacher.block(at).to(exact)
            product = products[part]
            found, gradient = rows.sums(at, student.curve(product), given, trains)
            sums += found
            if trains:
                product.copy_(student.curve.backward(product, gradient))
        if trains:
            _backward(products, student, block, gradients)
    return sums @ sums.new_tensor(rows.weights), sums, gradients


def _operand(tensor: Tensor) -> Tensor:
    """As it is multiplied: half precision in itself where a device has units for it, in float32 on the CPU."""
    return at_least_float32(tensor) if tensor.device.type == "cpu" else tensor


def _products(logits: LazyLogits, block: slice, out: Tensor) -> Tensor:
    """The products of some rows, before the curve, in ``out``."""
    out = out[: block.stop - block.start]
    _multiply(logits.hidden[block], logits.weight.t(), out)
    return out if logits.bias is None else out.add_(logits.bias)


def _backward(gradient: Tensor, student: LazyLogits, block: slice, gradients: Sequence[Tensor | None]) -> None:
    """Add to the gradients of hidden states, weight and bias what follows of that of a block's products."""
    of_hidden, of_weight, of_bias = gradients
    half = gradient.to(student.weight.dtype)
    if of_hidden is not None:
        _multiply(half, student.weight, of_hidden[block])
    if of_weight is not None and half.dtype == of_weight.dtype:
        of_weight.addmm_(half.t(), student.hidden[block])
    elif of_weight is not None:
        of_weight += half.t() @ student.hidden[block]
    if of_bias is not None:
        of_bias += gradient.sum(0)


def _multiply(one: Tensor, other: Tensor, out: Tensor) -> None:
    if one.dtype == other.dtype == out.dtype:
        torch.mm(one, other, out=out)
    else:
        out.copy_(one.to(other.dtype) @ other)
