"""Where an export may be written."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path

from distill.core.utils.errors import UserError
from distill.core.utils.replacing import replacing

__all__ = ["REPORT", "replacing_export"]

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
