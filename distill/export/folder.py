"""Where an export may be written."""

from __future__ import annotations

import hashlib
from contextlib import AbstractContextManager
from pathlib import Path

from distill.core.utils.errors import UserError
from distill.core.utils.replacing import replacing

__all__ = ["CHECKSUMS", "REPORT", "replacing_export", "write_checksums"]

CHECKSUMS = "SHA256SUMS"
"""What ``sha256sum --check SHA256SUMS``, in an export's folder, reads."""

REPORT = "export.json"
"""What every export holds besides its model; a folder with it may be exported to again."""


def replacing_export(target: Path) -> AbstractContextManager[Path]:
    """As :func:`~distill.core.utils.replacing.replacing`, but what is no export is never replaced.

    Raises:
        UserError: if something else than an earlier export stands there, or nothing can be written there.
    """
    if target.exists() and not (target / REPORT).is_file() and not _is_empty_folder(target):
        raise UserError("exists and is no earlier export", key="--output", value=str(target), hint="name another")
    return replacing(target, "--output")


def _is_empty_folder(path: Path) -> bool:
    return path.is_dir() and not any(path.iterdir())


def write_checksums(folder: Path) -> None:
    """Write :data:`CHECKSUMS` of all files in ``folder``, as ``sha256sum`` does."""
    lines = []
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        with path.open("rb") as file:
            lines.append(f"{hashlib.file_digest(file, 'sha256').hexdigest()}  {path.relative_to(folder).as_posix()}\n")
    (folder / CHECKSUMS).write_text("".join(lines), encoding="utf-8")
