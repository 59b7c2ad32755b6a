"""Where an export may be written."""

from __future__ import annotations

import errno
import hashlib
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from distill.core.utils.errors import UserError
from distill.core.utils.replacing import replacing

__all__ = ["CHECKSUMS", "REPORT", "replacing_export", "write_checksums"]

CHECKSUMS = "SHA256SUMS"
"""What ``sha256sum --check SHA256SUMS``, in an export's folder, reads."""

REPORT = "export.json"
"""What every export holds besides its model; a folder with it may be exported to again."""


_ROOM = 1 << 20  # bytes: with less left the disk is taken to be full


@contextmanager
def replacing_export(target: Path) -> Iterator[Path]:
    """As :func:`~distill.core.utils.replacing.replacing`, but what is no export is never replaced.

    Raises:
        UserError: if something else than an earlier export stands there, or nothing can be written there, or no more.
    """
    if target.exists() and not (target / REPORT).is_file() and not _is_empty_folder(target):
        raise UserError("exists and is no earlier export", key="--output", value=str(target), hint="name another")
    with replacing(target, "--output") as fresh:
        try:
            yield fresh
        except Exception as error:
            if isinstance(error, UserError) or not _is_full(fresh, error):
                raise
            problem, hint = "lies on a disk that is full; nothing was written", "make room, or name another folder"
            raise UserError(problem, key="--output", value=str(target), hint=hint) from error


def _is_full(folder: Path, error: BaseException | None) -> bool:
    """Whether a disk without room is the cause of an error. Many libraries raise errors of their own for it."""
    if shutil.disk_usage(folder).free < _ROOM:
        return True
    while error is not None:
        if (isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)) or "os error 28" in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False


def _is_empty_folder(path: Path) -> bool:
    return path.is_dir() and not any(path.iterdir())


def write_checksums(folder: Path) -> None:
    """Write :data:`CHECKSUMS` of all files in ``folder``, as ``sha256sum`` does."""
    lines = []
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        with path.open("rb") as file:
            lines.append(f"{hashlib.file_digest(file, 'sha256').hexdigest()}  {path.relative_to(folder).as_posix()}\n")
    (folder / CHECKSUMS).write_text("".join(lines), encoding="utf-8")
