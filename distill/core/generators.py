"""The global generators of random numbers."""

from __future__ import annotations

import random

import numpy
import torch

__all__ = ["reseed"]


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
