"""Files that are complete or not there, and that know when they were altered.

A checkpoint is a file of ``torch.save``, which is a zip archive. Its archive comment is the SHA-256 of all that comes
before it: one file carries its own seal, and torch and every zip tool still open it.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import struct
import uuid
from pathlib import Path
from typing import Any, BinaryIO

import torch

from distill.core.utils.files import opened, sync

__all__ = ["is_intact", "move_into_place", "remove", "write"]

_END = struct.Struct("<4s4H2LH")  # zip's end of central directory; its last field is the length of the comment
_MAGIC = b"PK\x05\x06"
_DIGITS = 64
_BLOCK = 1 << 20


def write(checkpoint: Any, path: str | Path) -> None:
    """Write ``checkpoint`` so that ``path`` is the old file or the new one, never a part of it, wherever it is killed.

    Raises:
        OSError: if it cannot be written. ``path`` is as it was.
    """
    path = Path(path)
    # Beside the target, as only within one file system a file takes another's place in one move.
    fresh = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.new")
    try:
        with fresh.open("xb") as file:
            sealed = _Sealed(file)
            try:
                torch.save(checkpoint, sealed)  # type: ignore[arg-type]
            except RuntimeError as error:  # torch's word for a write that failed
                raise sealed.failed or error from None
            sealed.close()
            file.flush()
            os.fsync(file.fileno())
        move_into_place(fresh, path)
    finally:
        fresh.unlink(missing_ok=True)


def move_into_place(fresh: Path, path: Path) -> None:
    """Have ``fresh`` take the place of what lies at ``path`` beside it, whichever of them is a folder.

    Raises:
        OSError: if it cannot. ``path`` is as it was.
    """
    # Of a folder that takes another's place, or a file's, the old one is out of the way for two renames only.
    old = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.new")
    aside = os.path.lexists(path) and (fresh.is_dir() or path.is_dir())
    if aside:
        os.replace(path, old)
    try:
        os.replace(fresh, path)
    except OSError:
        if aside:
            os.replace(old, path)
        raise
    sync(path.parent)
    if aside:
        remove(old)


class _Sealed:
    """Passes on what is written, all but the zip's last record, which gets the hash of it all as its comment."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.failed: OSError | None = None
        self._hash, self._rest = hashlib.sha256(), b""

    def write(self, data: bytes) -> int:
        view = memoryview(data)
        if len(view) < _END.size:
            view = memoryview(self._rest + data)
        else:
            self._pass(self._rest)
        self._pass(view[: -_END.size])
        self._rest = bytes(view[-_END.size :])
        return len(data)

    def _pass(self, data: bytes | memoryview) -> None:
        self._hash.update(data)
        try:
            self.file.write(data)
        except OSError as error:
            self.failed = error
            raise

    def flush(self) -> None:
        """Nothing: the file is flushed when it is complete."""

    def close(self) -> None:
        *fields, _ = _END.unpack(self._rest)
        assert fields[0] == _MAGIC
        self._pass(_END.pack(*fields, _DIGITS))
        self.file.write(self._hash.hexdigest().encode())


def is_intact(path: str | Path) -> bool:
    """Whether the file at ``path`` is a checkpoint that is as it was written.

    Raises:
        OSError: if it cannot be read.
    """
    with opened(Path(path)) as file:
        size = os.fstat(file.fileno()).st_size - _DIGITS
        found, left = hashlib.sha256(), size
        while left > 0:
            block = file.read(min(_BLOCK, left))
            if not block:
                return False
            found.update(block)
            left -= len(block)
        return size > 0 and file.read() == found.hexdigest().encode()


def remove(path: Path) -> None:
    """Remove the checkpoint at ``path``, if it is there; of a link nothing but the link."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
