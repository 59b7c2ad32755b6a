"""Parts of units, in whole numbers of them: how many go, and what no model can lose."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from distill.compression.pruning.unit_choice import count_at
from distill.core.utils.errors import UserError

__all__ = ["Scope", "gone", "refuse_none", "rounded"]

Scope = Literal["layer", "global"]

_SAID = 0.01
"""From this difference on it is said that whole numbers of units make another part of what was asked for."""


def gone(fraction: float, counts: Sequence[int], scope: Scope) -> list[int]:
    """How many units go in the end: of each layer, or of all together. One of each stays in every layer.

    Args:
        fraction: In [0, 1).
        counts: The units of each layer.
        scope: Among which units the least important are chosen.
    """
    if scope == "global":
        return [min(count_at(fraction, sum(counts)), sum(counts) - len(counts))]
    return [min(count_at(fraction, count), count - 1) for count in counts]


def refuse_none(fraction: float, counts: Sequence[int], scope: Scope, key: str, *, each: str = "", hint: str) -> None:
    """Refuse a part that is no unit at all.

    Args:
        fraction: In (0, 1).
        counts: The units of each layer.
        scope: As for :func:`gone`.
        key: Where the fraction stands.
        each: What a unit is, behind how many there are.
        hint: What to do about it.

    Raises:
        UserError: naming how many units there are.
    """
    if not sum(gone(fraction, counts, scope)):
        raise UserError(f"this is none of {_numbers(counts)}{each}", key=key, value=fraction, hint=hint)


def rounded(fraction: float, counts: Sequence[int], scope: Scope, each: str = "") -> str:
    """What goes in fact, where that is another part than ``fraction``, or a unit is several heads; else empty."""
    part = sum(gone(fraction, counts, scope)) / sum(counts)
    if abs(part - fraction) < _SAID and not each:
        return ""
    return f"a layer has {_numbers(counts)}{each}, whole ones go, and one stays: {100 * part:.3g} %"


def _numbers(counts: Sequence[int]) -> str:
    return " or ".join(str(count) for count in sorted(set(counts)))
