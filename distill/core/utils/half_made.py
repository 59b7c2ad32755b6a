"""Folders that are being made, and those that a process which is gone has left half made."""

from __future__ import annotations

import fcntl
import logging
import os
import re
import shutil
import uuid
from contextlib import suppress
from pathlib import Path

__all__ = ["begin", "clear", "remove"]

_log = logging.getLogger(__name__)

_HALF = re.compile(r"\.(?P<name>.+)\.[0-9a-f]{8}\.(?P<kind>new|old)")
_TRIES = 5


def begin(place: Path) -> tuple[Path, int]:
    """A new empty folder beside ``place``, and the descriptor whose closing lets go of it.

    As long as that is open, or the process lives, :func:`clear` leaves the folder: it is locked, by a lock of the
    operating system. Where the file system has no locks nobody can clear it either.

    Raises:
        OSError: if it cannot be made.
    """
    for _ in range(_TRIES):
        fresh = _name(place)
        fresh.mkdir(parents=True)
        try:
            descriptor = os.open(fresh, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:  # somebody cleared it, who found it before it was locked
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:  # is clearing it
            os.close(descriptor)
            continue
        except OSError:
            return fresh, descriptor
        if fresh.is_dir():
            return fresh, descriptor
        os.close(descriptor)
    raise OSError(f"a folder beside {place.name} is taken away as it is made")


def remove(place: Path) -> None:
    """Remove a folder, as far as that can be, so that a kill leaves the whole of it, or what :func:`clear` removes."""
    with suppress(OSError):
        place = place.rename(_name(place))
    shutil.rmtree(place, ignore_errors=True)


def _name(place: Path) -> Path:
    return place.with_name(f".{place.name}.{uuid.uuid4().hex[:8]}.new")


def clear(place: Path, *, alike: bool = False) -> list[Path]:
    """Remove what processes that are gone have left beside ``place`` of a folder to take its place, and say so.

    That is a folder of this user's by the name that :func:`begin` gives, which nobody has locked; or what lay at
    ``place`` before, where something lies there now. Nothing else is touched, and no link is followed.

    Args:
        place: The folder that is to be made.
        alike: Clear what was to take any other place beside it too: each of them would have had a name of its own.

    Returns:
        What was removed.
    """
    gone = []
    for path in sorted(_left(place, alike)):
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError:
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(descriptor).st_uid == os.getuid():
                shutil.rmtree(path)
                gone.append(path)
        except OSError:  # locked by who is making it, or not to be removed
            continue
        finally:
            os.close(descriptor)
    for path in gone:
        _log.warning("%s is removed: a process that is gone had left it half made", path)
    return gone


def _left(place: Path, alike: bool) -> list[Path]:
    """What lies beside ``place`` that may be half made."""
    try:
        beside = list(place.parent.iterdir())
    except OSError:  # there is no such folder yet
        return []
    found = [(path, match) for path in beside if (match := _HALF.fullmatch(path.name))]
    # What lay there before is the only one while nothing lies there: that is asked after they were found.
    return [
        path
        for path, match in found
        if (alike or match["name"] == place.name)
        and (match["kind"] == "new" or place.with_name(match["name"]).exists())
    ]
