"""Is what a model answers a function of one sample alone? Found by asking a few samples again, and one by itself.

In evaluation a model that draws random numbers (``F.dropout`` without ``training=``) says something else each time, and
one that mixes its batch (``y - y.mean(0)``) something else in each batch: scores are then of no model that runs alone.
"""

from __future__ import annotations

from collections.abc import Callable
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


def apart(one: Tensor, other: Tensor) -> float:
    """max |one - other| / max |one|; what is not a number in both is the same, and in one of them infinitely far.

    Args:
        one: Answers, of any shape.
        other: Of the same shape.
    """
    if not one.numel():
        return 0.0
    a, b = one.detach().double(), other.detach().double()
    same = (a == b) | (a.isnan() & b.isnan())
    difference = torch.where(same, 0.0, (a - b).abs().nan_to_num(torch.inf, posinf=torch.inf))
    largest = a[a.isfinite()].abs().max() if bool(a.isfinite().any()) else torch.zeros(())
    return float(difference.max() / largest.clamp(min=torch.finfo(torch.float32).tiny))


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
    close = alone.shape != first.shape or apart(first, alone) <= (10 if _half(first) else 1) * _ALONE
    return None if close else "mixes"


def differs(one: Tensor, again: Tensor) -> bool:
    """Whether two passes over the same batch gave different answers."""
    return one.shape != again.shape or apart(one, again) > (100 if _half(one) else 1) * _AGAIN


def _half(answers: Tensor) -> bool:
    return answers.is_floating_point() and torch.finfo(answers.dtype).bits < 32
