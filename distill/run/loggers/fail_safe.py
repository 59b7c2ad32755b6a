"""What all loggers have in common: one process writes, and none of them ever stops a run."""

from __future__ import annotations

import warnings
from collections.abc import Callable

from distill.core.ranks import is_rank_zero
from distill.core.utils.secrets import scrub

__all__ = ["FailSafe"]


class FailSafe:
    """A logger that ends alone: what goes wrong in it is reported once, and the run continues without it."""

    label: str
    _failed = False

    def _try(self, what: str, action: Callable[[], object]) -> None:
        """Do ``action`` on rank zero, unless one before it failed."""
        if self._failed or not is_rank_zero():
            return
        try:
            action()
        except Exception as error:  # whatever a full disk, a server or a library comes up with
            self._failed = True
            reason = scrub(repr(error))
            warnings.warn(f"{self.label} is left out from here on: it could not {what} ({reason}).", stacklevel=2)
