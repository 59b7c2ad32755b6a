"""Sets of tokens in few bits: each by its rank among all tokens, the most frequent first, and coarse levels with them.

Tokens of one level are sorted by rank, and the differences are coded; the first of a level by its rank itself. A number
n takes a class c = floor(log2(n + 1)) of 4 or 5 bits, and c bits (Elias: Universal codeword sets and representations
of the integers, 1975). The levels, which ascend, take a bit each and one for every step from 0 on (Elias: Efficient
storage and retrieval by content and address of static files, 1974).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["class_bits", "pack_ranks", "row_classes", "unpack_ranks"]

_Ints = NDArray[np.int64]
_Bytes = NDArray[np.uint8]


def class_bits(width: int) -> int:
    """The bits that say how long a rank below ``width`` is."""
    return 4 if width < 2**16 else 5


def pack_ranks(levels_NK: _Ints, ranks_NK: _Ints, top: int, bits: int) -> tuple[_Ints, _Bytes, _Bytes, _Ints]:
    """Code rows of K tokens.

    Args:
        levels_NK: From 0 to ``top``.
        ranks_NK: Of the same tokens, all different in a row.
        top: The highest level there can be.
        bits: Of a class.

    Returns:
        The order ``[N, K]`` in which the tokens will come out of :func:`unpack_ranks`; levels and classes, ``[N,
        bytes]`` each; the remaining bits of all rows, zeros and ones; how many each row has, its classes say.
    """
    order = np.lexsort((ranks_NK, levels_NK), axis=1)
    levels, ranks = (np.take_along_axis(one, order, 1) for one in (levels_NK, ranks_NK))
    marked = np.zeros((len(levels), levels.shape[1] + top), np.uint8)
    np.put_along_axis(marked, levels + np.arange(levels.shape[1]), 1, 1)
    coded = np.where(_continues(levels), np.diff(ranks, axis=1, prepend=0) - 1, ranks) + 1
    classes = np.frexp(coded.astype(np.float64))[1].astype(np.int64) - 1
    spread = (classes[..., None] >> np.arange(bits)[::-1]) & 1
    each, counts = (coded - (1 << classes)).ravel(), classes.ravel()
    place = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    remaining = (np.repeat(each, counts) >> (np.repeat(counts, counts) - 1 - place)) & 1
    packed = np.packbits(spread.reshape(len(classes), -1).astype(np.uint8), axis=1)
    return order, np.packbits(marked, axis=1), packed, remaining


def unpack_ranks(
    marked: _Bytes, packed: _Bytes, stream: _Bytes, starts: _Ints, count: int, top: int, bits: int
) -> tuple[_Ints, _Ints]:
    """Levels and ranks ``[N, K]`` of what :func:`pack_ranks` has coded.

    Args:
        marked: Levels.
        packed: Classes.
        stream: The remaining bits, in bytes.
        starts: Where those of each row begin, in bits, ``[N]``.
        count: K.
        top: As it was coded.
        bits: Likewise.
    """
    rows = len(marked)
    places = np.unpackbits(marked, axis=1, count=count + top).nonzero()[1].reshape(rows, count)
    levels = places - np.arange(count)
    classes = row_classes(packed, count, bits)
    at = starts[:, None] + np.cumsum(classes, axis=1) - classes
    window: Any = np.concatenate([stream, np.zeros(4, np.uint8)]).astype(np.int64)
    first = at >> 3
    read = window[first] << 24 | window[first + 1] << 16 | window[first + 2] << 8 | window[first + 3]
    coded = ((read >> (32 - (at & 7) - classes)) & ((1 << classes) - 1)) + (1 << classes) - 1
    steps = coded + _continues(levels)
    sums = np.cumsum(steps, axis=1)
    begins = np.where(_continues(levels), 0, sums - steps)
    return levels, sums - np.maximum.accumulate(begins, axis=1)


def row_classes(packed: _Bytes, count: int, bits: int) -> _Ints:
    """The classes ``[N, K]``, which are the lengths of the remaining bits."""
    spread = np.unpackbits(packed, axis=1, count=count * bits).reshape(len(packed), count, bits)
    classes: _Ints = (spread.astype(np.int64) << np.arange(bits)[::-1]).sum(2)
    return classes


def _continues(levels: _Ints) -> NDArray[np.bool_]:
    """Whether a token has the level of the one before it."""
    same: NDArray[np.bool_] = np.diff(levels, axis=1, prepend=-1) == 0
    return same
