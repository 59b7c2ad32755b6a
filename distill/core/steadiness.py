"""Is what a model answers a function of one sample alone? Found by asking a few samples again, and one by itself.

In evaluation a model that draws random numbers (``F.dropout`` without ``training=``) says something else each time, and
one that mixes its batch (``y - y.mean(0)``) something else in each batch: scores are then of no model that runs alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Literal

import torch
from torch import Tensor

from distill.core.signals import Batch

__all__ = ["Unsteady", "apart", "differs", "why_unsteady"]

Unsteady = Literal["random", "mixes"]

_SAMPLES = 4
"""As many are asked."""

_AGAIN, _ALONE = 1e-4, 1e-2
"""How far answers may lie apart, as a part of the largest: of the same pass, whose sums may be in another order on a
device, and of passes of other shapes, whose kernels differ. Of half precision 100 and 10 times as far."""


_NEVER = -1e3
"""An answer as low as this in both passes is that of a masked class, which says nothing of how large the others are."""

_SLICE = 2**20
"""Numbers compared at once, in float32: Apple's devices have nothing longer."""


def apart(one: Tensor, other: Tensor, largest: float | None = None) -> float:
    """max |one - other| / max |one|; what is not a number in both is the same, and in one of them infinitely far.

    Args:
        one: Answers, of any shape.
        other: Of the same shape.
        largest: Divide by this instead.
    """
    found = 0.0
    for a, b in _slices(one, other):
        same = (a == b) | (a.isnan() & b.isnan())
        difference = torch.where(same, 0.0, (a - b).abs().nan_to_num(torch.inf, posinf=torch.inf))
        found = max(found, float(difference.max()))
    largest = _largest(one, other) if largest is None else largest
    return found / max(largest, torch.finfo(torch.float32).tiny)


def _largest(one: Tensor, again: Tensor) -> float:
    """max |one| of what is finite, without masked classes."""
    return max((float(torch.where(_counts(a, b), a.abs(), 0.0).max()) for a, b in _slices(one, again)), default=0.0)


def _counts(a: Tensor, b: Tensor) -> Tensor:
    return a.isfinite() & ~((a == b) & (a < _NEVER))


def _slices(one: Tensor, other: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    flat = (torch.split(answers.detach().reshape(-1), _SLICE) for answers in (one, other))
    return ((a.float(), b.float()) for a, b in zip(*flat, strict=True) if a.numel())


def why_unsteady(answer: Callable[[Batch], Tensor], batch: Batch) -> Unsteady | None:
    """How what a model says of a sample depends on something else than that sample.

    Args:
        answer: A pass in evaluation: a batch of ``B`` samples -> ``[B, ...]``. It draws from the program's generators.
        batch: Of which the first four are asked, twice together and the first once by itself.

    Returns:
        ``random`` where the same samples get other answers, ``mixes`` where a sample gets another one by itself, and
        ``None`` where neither was seen. A model that cannot be asked for one sample is not said to mix.
    """
    few = batch.first(_SAMPLES)
    together, again = answer(few), answer(few)
    if differs(together, again):
        return "random"
    if few.size < 2 or len(together) != few.size:
        return None
    try:
        alone = answer(few.first(1))
    except Exception:  # whatever the model's own code raises of a batch of one
        return None
    first = together[:1]
    if alone.shape != first.shape:
        return None
    # Of the batch's largest: one sample's own answer can be near 0 by chance.
    close = apart(first, alone, _largest(together, again)) <= (10 if _half(first) else 1) * _ALONE
    return None if close else "mixes"


def differs(one: Tensor, again: Tensor) -> bool:
    """Whether two passes over the same batch gave different answers."""
    return one.shape != again.shape or apart(one, again) > (100 if _half(one) else 1) * _AGAIN


def _half(answers: Tensor) -> bool:
    return answers.is_floating_point() and torch.finfo(answers.dtype).bits < 32
