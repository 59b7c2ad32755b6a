"""One process at a time writes a run."""

from __future__ import annotations

import fcntl
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from distill.errors import UserError

__all__ = ["held", "locked"]

_PATIENCE = 0.3

# A lock of the operating system, not the file itself: it ends with its process, however that ends.


@contextmanager
def locked(file: Path) -> Iterator[None]:
    """Hold the lock ``file`` of a run.

    Processes that this one starts while it holds the lock do not hold it.

    Raises:
        UserError: if another process holds it.
    """
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        if not _taken(descriptor):
            holder = os.read(descriptor, 200).decode(errors="replace").strip() or "another process"
            rule = f"{holder} is writing this run"
            raise UserError(rule, key="RUN", value=str(file.parent), mend="wait for it, or stop it first")
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)
        yield
    finally:
        os.close(descriptor)


def _taken(descriptor: int) -> bool:
    """Take the lock; for :data:`_PATIENCE` seconds, as :func:`held` takes it for a moment to see whether it is free."""
    end = time.monotonic() + _PATIENCE
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() > end:
                return False
            time.sleep(0.02)


def held(file: Path) -> bool:
    """Whether a process holds the lock ``file``."""
    try:
        descriptor = os.open(file, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return False
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
