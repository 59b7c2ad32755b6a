"""A text in the tokens of two tokenizers, and where both have read the same of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distill.core.token_bytes import spelled_up_to

__all__ = ["OtherTokenizer", "partners", "read_up_to"]


@dataclass(frozen=True)
class OtherTokenizer:
    """A tokenizer beside that of the student: the teacher's.

    Attributes:
        tokenizer: Of transformers.
        fingerprint: Of what it does; it alone is shown, and so part of the key of a cache.
    """

    tokenizer: Any = field(repr=False)
    fingerprint: str


def read_up_to(ids: NDArray[np.int32], starts: int, table: Sequence[bytes], text: bytes) -> NDArray[np.int64]:
    """Up to which byte of ``text`` each position has read, ``[n]``; -1 where that is not known.

    Args:
        ids: What a model reads.
        starts: How many of them stand before the text.
        table: The bytes of the tokens.
        text: In UTF-8.
    """
    return np.append(np.zeros(starts, np.int64), spelled_up_to(ids[starts:], table, text))


def partners(ours: NDArray[np.int64], theirs: NDArray[np.int64]) -> NDArray[np.int32]:
    """The position of the teacher that has read up to the same byte as each of the student's; -1 where none has.

    Of several that have (behind a token that spells nothing) it is the last, on either side: partners rise.

    Args:
        ours: Up to which byte each position of the student has read, ``[n]``, rising; -1 where not known.
        theirs: Likewise of the teacher, ``[m]``.

    Returns:
        ``[n]``, each from -1 to m - 1.
    """
    known = theirs[theirs >= 0]
    place = np.searchsorted(known, ours, "right") - 1
    found = (ours >= 0) & (place >= 0)
    found &= known[place.clip(0)] == ours if len(known) else False
    found[:-1] &= ours[:-1] != ours[1:]
    return np.where(found, place, -1).astype(np.int32)
