"""Of Python's own library. Light."""

from __future__ import annotations

import atexit

__all__ = ["run_exit_functions"]


def run_exit_functions() -> None:
    """Do what was registered for the end of the process (``atexit``, and folders that are there for a time)."""
    atexit._run_exitfuncs()
