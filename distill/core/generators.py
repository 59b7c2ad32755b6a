"""The global generators of random numbers."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import blake2b

import numpy
import torch

__all__ = ["forked", "reseed", "seed_at"]


def seed_at(seed: int, batch: int, rank: int) -> int:
    """A 63-bit seed for one batch on one rank: a hash, so that neighbours have nothing in common."""
    digest = blake2b(f"{seed}/{batch}/{rank}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


@contextmanager
def forked(seed: int) -> Iterator[None]:
    """Torch's generators seeded inside the block, and as they were after it."""
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices):
        torch.manual_seed(seed)
        yield


def reseed(seed: int) -> None:
    """Seed Python's, numpy's and torch's generators.

    Args:
        seed: At least 0, and less than 2^63.
    """
    random.seed(seed)
    numpy.random.seed(seed % 2**32)
    if torch.accelerator.is_available():
        torch.manual_seed(seed)
    else:  # the same, without the stack trace that manual_seed formats for each kind of device that is not there
        torch.default_generator.manual_seed(seed)
