"""Blocks of 32 integers with one scale, as GGUF stores them: bytes of the integers that training ended with.

A block is a scale d in float16 and 32 integers; ``Q4_0`` and ``Q5_0`` are d (q - 8) and d (q - 16) with q from 0, in
halves of a byte and, of five bits, the fifth ones apart; ``Q8_0`` is d q.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

__all__ = ["BLOCK", "form_of", "packed", "scales_by_block"]

BLOCK = 32
"""Successive inputs of an output that share a scale."""

Bytes = NDArray[np.uint8]


def form_of(bits: int) -> str | None:
    """The narrowest form that holds symmetric integers of so many bits; ``None`` where there is none."""
    return "Q4_0" if bits <= 4 else "Q5_0" if bits == 5 else "Q8_0" if bits <= 8 else None


def scales_by_block(scale: NDArray[np.float32], shape: tuple[int, int]) -> NDArray[np.float32] | None:
    """The scale of each block, ``[out, in / 32]``.

    Args:
        scale: One for all, of each output ``[out]``, or of each group ``[out, groups]``.
        shape: Of the weights, ``[out, in]``.

    Returns:
        ``None`` where blocks of 32 do not lie within the groups.
    """
    outputs, inputs = shape
    if inputs % BLOCK:
        return None
    if scale.ndim < 2:
        return np.broadcast_to(scale.reshape(-1, 1), (outputs, inputs // BLOCK))
    size = inputs // scale.shape[1]
    return scale.repeat(size // BLOCK, 1) if size % BLOCK == 0 else None


def packed(integers: NDArray[np.int8], scales: NDArray[np.float32], form: str) -> Bytes:
    """Bytes ``[out, in / 32 * bytes of a block]``.

    Args:
        integers: Symmetric, ``[out, in]``.
        scales: ``[out, in / 32]``.
        form: Of :func:`form_of`.
    """
    blocks = integers.reshape(-1, BLOCK)
    head = scales.reshape(-1, 1).astype("<f2").view(np.uint8)
    parts = _FORMS[form](blocks)
    return np.concatenate([head, *parts], 1).reshape(len(integers), -1)


def _q8(blocks: NDArray[np.int8]) -> list[Bytes]:
    return [blocks.view(np.uint8)]


def _q4(blocks: NDArray[np.int8]) -> list[Bytes]:
    return [_halves((blocks + 8).astype(np.uint8))]


def _q5(blocks: NDArray[np.int8]) -> list[Bytes]:
    q = (blocks + 16).astype(np.uint8)
    return [np.packbits(q >> 4, axis=1, bitorder="little"), _halves(q & np.uint8(0x0F))]


def _halves(q: Bytes) -> Bytes:
    """The first sixteen in the low halves of bytes, the others in the high ones."""
    return q[:, : BLOCK // 2] | (q[:, BLOCK // 2 :] << np.uint8(4))


_FORMS: dict[str, Callable[[NDArray[np.int8]], list[Bytes]]] = {"Q4_0": _q4, "Q5_0": _q5, "Q8_0": _q8}
