"""What outlives a power cut."""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

__all__ = ["make", "opened", "read", "replace", "sync", "write"]

SMALL = 16 << 20
"""The most bytes that a file of a run's folder, other than weights and histories, ever has."""


def make(folder: Path) -> None:
    """Make ``folder``, and those above it, each with its name on the disk."""
    if not folder.is_dir():
        make(folder.parent)
        folder.mkdir(exist_ok=True)
        sync(folder.parent)


def opened(path: Path) -> BinaryIO:
    """A file to read, which is neither a folder nor a pipe without a writer, or without an end.

    Raises:
        OSError: if it is not there, no regular file, or cannot be read.
    """
    # Without waiting, as a pipe would for its writer.
    file = os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb")
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise OSError(errno.EINVAL, "no regular file", str(path))
    return file


def read(path: Path, most: int = SMALL) -> bytes:
    """What a file holds.

    Raises:
        OSError: as :func:`opened`, or if it is larger than ``most`` bytes.
    """
    with opened(path) as file:
        if os.fstat(file.fileno()).st_size > most:
            raise OSError(errno.EFBIG, f"larger than {most >> 20} MiB", str(path))
        return file.read(most)


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
        fresh.unlink(missing_ok=True)
        with fresh.open("xb") as file:  # made anew: through no link that a stranger has left there
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(fresh, path)
    except OSError:
        with suppress(OSError):  # of a disk that is read only
            fresh.unlink(missing_ok=True)
        raise
