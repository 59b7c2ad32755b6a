"""One process at a time writes a run."""

from __future__ import annotations

import fcntl
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from distill.core.utils.errors import UserError

__all__ = ["held", "locked"]

_PATIENCE = 0.3

# A lock of the operating system, not the file itself: it ends with its process, however that ends.

_open: set[int] = set()
"""The descriptors by which this process holds locks."""


def _let_go() -> None:
    """Close a forked process's copies: a worker that outlives its run would hold that."""
    for descriptor in _open:
        os.close(descriptor)
    _open.clear()


os.register_at_fork(after_in_child=_let_go)


@contextmanager
def locked(file: Path) -> Iterator[None]:
    """Hold the lock ``file`` of a run.

    Processes that this one starts while it holds the lock, forks included, do not hold it.

    Raises:
        UserError: if another process holds it, or the file system does not grant it.
    """
    try:
        descriptor = _take(file)
    except OSError as error:
        problem = f"{file.name} cannot be locked ({error.strerror})"
        hint = "check that you may write there, and that it is no network folder without locks"
        raise UserError(problem, key="RUN", value=str(file.parent), hint=hint) from None
    _open.add(descriptor)
    try:
        yield
    finally:
        if descriptor in _open:  # not in a forked process
            _open.remove(descriptor)
            os.close(descriptor)


def _take(file: Path) -> int:
    """The descriptor that holds the lock, with this process's name in the file.

    Raises:
        UserError: if another process holds it.
        OSError: if the file cannot be opened, locked or written.
    """
    # Through no link: what it leads to is not the run's to write.
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, 0o644)
    try:
        if not _taken(descriptor):
            holder = os.read(descriptor, 200).decode(errors="replace").strip() or "another process"
            problem = f"{holder} is writing this run"
            raise UserError(problem, key="RUN", value=str(file.parent), hint="wait for it, or stop it first")
        if os.fstat(descriptor).st_nlink == 1:  # else it has another name, which may be outside of the run
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _taken(descriptor: int) -> bool:
    """Take the lock; for :data:`_PATIENCE` seconds, as :func:`held` takes it briefly to see whether it is free."""
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
    """Whether a process holds the lock ``file``, as far as that can be told.

    To look needs no leave to write, and those who look at the same time do not take each other for a holder.
    """
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return False
    except BlockingIOError:
        return True
    except OSError:  # a file system without locks
        return False
    finally:
        os.close(descriptor)
