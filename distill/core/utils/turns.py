"""Processes of one machine that measure time, one after the other."""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

__all__ = ["timing"]


@contextmanager
def timing(folder: Path | None = None) -> Iterator[None]:
    """Wait until no other process of this user's is in such a block, and keep others from it.

    Where the system grants no lock there is none: a wrong time is no reason to stop.

    Args:
        folder: Of the lock's file; that for temporary files if not given.
    """
    descriptor = None
    place = (folder or Path(tempfile.gettempdir())) / f"distill-timing-{os.getuid()}.lock"
    with suppress(OSError):
        descriptor = os.open(place, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("waiting for another process of distill, which measures time", flush=True)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
    try:
        yield
    finally:
        if descriptor is not None:
            os.close(descriptor)
