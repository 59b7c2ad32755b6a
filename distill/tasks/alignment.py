"""A text in the tokens of two tokenizers, and where both have read the same of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distill.core.token_bytes import spelled_up_to

__all__ = ["OtherTokenizer", "partners", "read_up_to", "spells_another", "within_tokens"]


@dataclass(frozen=True)
class OtherTokenizer:
    """A tokenizer beside that of the student: the teacher's.

    Attributes:
        tokenizer: Of transformers.
        fingerprint: Of what it does; it alone is shown, and so part of the key of a cache.
    """

    tokenizer: Any = field(repr=False)
    fingerprint: str


_UNKNOWN, _BEFORE = -1, -2


def read_up_to(ids: NDArray[np.int32], starts: int, table: Sequence[bytes], text: bytes) -> NDArray[np.int64]:
    """Up to which byte of ``text`` each position has read, ``[n]``; -1 where that is not known.

    Before a text whose first token begins with a space of the tokenizer's own it is -2: what is predicted there is the
    beginning of another text than the one that a tokenizer without such a space begins.

    Args:
        ids: What a model reads.
        starts: How many of them stand before the text.
        table: The bytes of the tokens.
        text: In UTF-8.
    """
    ends, spaced = spelled_up_to(ids[starts:], table, text)
    return np.append(np.full(starts, _BEFORE if spaced else 0, np.int64), ends)


def partners(ours: NDArray[np.int64], theirs: NDArray[np.int64]) -> NDArray[np.int32]:
    """The position of the teacher that has read up to the same byte as each of the student's; -1 where none has.

    Of several that have (behind a token that spells nothing) it is the last, on either side: partners rise.

    Args:
        ours: Up to which byte each position of the student has read, ``[n]``, as :func:`read_up_to` has it.
        theirs: Likewise of the teacher, ``[m]``.

    Returns:
        ``[n]``, each from -1 to m - 1.
    """
    known = np.flatnonzero(theirs != _UNKNOWN)
    if not len(known):
        return np.full(len(ours), -1, np.int32)
    place = (np.searchsorted(theirs[known], ours, "right") - 1).clip(0)
    found = (ours != _UNKNOWN) & (theirs[known][place] == ours)
    found[:-1] &= ours[:-1] != ours[1:]
    return np.where(found, known[place], -1).astype(np.int32)


def within_tokens(
    at: NDArray[np.int32],
    ours: NDArray[np.int64],
    theirs: NDArray[np.int64],
    ids: NDArray[np.int32],
    steps: Mapping[tuple[int, int], int],
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Partners also for positions within one of the teacher's tokens, and what the student has read of that.

    At such a position the teacher's last prediction says how the token goes on: it is the teacher's that has read up to
    where the student's first token within it began.

    Args:
        at: Of :func:`partners`.
        ours: Up to which byte each position of the student has read, ``[n]``.
        theirs: Likewise of the teacher, ``[m]``.
        ids: What the student reads, ``[n]``.
        steps: Of :class:`TokenPaths`.

    Returns:
        The partners, and the nodes: 0 where there is none, or both have read up to the same byte.
    """
    found, nodes = at.copy(), np.zeros_like(at)
    ends, node, partner = [*theirs.tolist(), _UNKNOWN], -1, -1
    for place, (exact, upto, token) in enumerate(zip(at.tolist(), ours.tolist(), ids.tolist(), strict=True)):
        if exact >= 0:
            node, partner = 0, exact
        elif node >= 0:
            node = steps.get((node, token), -1) if ends[partner + 1] > upto else -1
            if node > 0:
                found[place], nodes[place] = partner, node
    return found, nodes


def spells_another(read: NDArray[np.int64]) -> bool:
    """Whether the tokens of a text spell another one, of what :func:`read_up_to` gives."""
    return bool((read == _UNKNOWN).any())
