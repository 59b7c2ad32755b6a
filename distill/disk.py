"""What outlives a power cut."""

from __future__ import annotations

import errno
import os
from pathlib import Path

__all__ = ["make", "sync"]


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
