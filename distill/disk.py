"""What outlives a power cut."""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from pathlib import Path

__all__ = ["make", "replace", "sync", "write"]


def make(folder: Path) -> None:
    """Make ``folder``, and those above it, each with its name on the disk."""
    if not folder.is_dir():
        make(folder.parent)
        folder.mkdir(exist_ok=True)
        sync(folder.parent)


def sync(path: Path) -> None:
    """Have a file, or the names in a folder, on the disk; some network file systems know no such thing for folders."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP) or not path.is_dir():
            raise
    finally:
        os.close(descriptor)


def write(path: Path, content: bytes) -> None:
    """As :func:`replace`, with the new file's name on the disk, too.

    Raises:
        OSError: if it cannot be written.
    """
    replace(path, content)
    sync(path.parent)


def replace(path: Path, content: bytes) -> None:
    """Write a file so that a kill or a power cut leaves the old one or the new one, never a part.

    Raises:
        OSError: if it cannot be written. What lay at ``path`` is as it was, and nothing beside it.
    """
    fresh = path.with_name(f".{path.name}.new")
    try:
        with fresh.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(fresh, path)
    except OSError:
        with suppress(OSError):  # of a disk that is read only
            fresh.unlink(missing_ok=True)
        raise
