"""Random numbers without a state: each a function of the keys it is asked for, whatever was drawn before."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["draw", "order", "uniform"]

_STEP = np.uint64(0x9E3779B97F4A7C15)


def draw(*keys: Any) -> NDArray[np.uint64]:
    """64 random bits for every combination of the keys, which broadcast against each other.

    Each key is mixed in by a round of SplitMix64 (Steele, Lea and Flood, 2014, "Fast splittable pseudorandom
    number generators"), so the numbers are the same under any version of any library.

    Args:
        keys: Integers, or arrays of them.
    """
    state = np.zeros(1, np.uint64)
    for key in keys:
        state = _mix(state + np.atleast_1d(np.asarray(key)).astype(np.uint64) + _STEP)
    return state


def _mix(bits: NDArray[np.uint64]) -> NDArray[np.uint64]:
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return bits ^ (bits >> np.uint64(31))


def uniform(*keys: Any) -> NDArray[np.float64]:
    """Uniform on [0, 1) for every combination of the keys (see :func:`draw`)."""
    return (draw(*keys) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def order(count: int, *keys: int) -> NDArray[np.int64]:
    """A permutation of ``range(count)`` that the keys determine."""
    return np.argsort(draw(*keys, np.arange(count)), kind="stable")
