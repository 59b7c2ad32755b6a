"""Numbers among the settings of data, and their bounds."""

from __future__ import annotations

from typing import Any

from distill.errors import UserError

__all__ = ["check_numbers"]

_LEAST = {"max_length": 2, "batch_size": 1, "eval_batch_size": 1, "num_workers": 0, "train_samples": 1, "seed": 0}


def check_numbers(settings: Any) -> None:
    """Refuse a number that is too small.

    Args:
        settings: Has them as attributes.

    Raises:
        UserError: naming it.
    """
    for key, bound in _LEAST.items():
        value = getattr(settings, key)
        if value is not None and value < bound:
            raise UserError(f"must be at least {bound}", key=f"data.{key}", value=value, mend="raise it")
    length = settings.pack_length
    if length is not None and (length < 0 or length == 1):
        raise UserError("must be at least 2, or 0", key="data.pack_length", value=length, mend="raise it")
