"""A folder that appears whole or not at all."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from distill.errors import UserError

__all__ = ["REPORT", "replacing"]

REPORT = "export.json"
"""What every export holds besides its model; a folder with it may be exported to again."""


@contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """A new folder that takes ``target``'s place when the block ends well; otherwise nothing of it stays.

    Raises:
        UserError: if something else than an earlier export stands there, or nothing can be written there.
    """
    if target.exists() and not (target / REPORT).is_file() and not _is_empty_folder(target):
        raise UserError("exists and is no earlier export", key="--output", value=str(target), mend="name another")
    beside = target.parent / f".{target.name}.{uuid.uuid4().hex[:8]}"
    fresh, old = beside.with_suffix(".new"), beside.with_suffix(".old")
    alone = not target.parent.exists()
    try:
        fresh.mkdir(parents=True)
    except OSError as error:
        rule = f"cannot be written to ({error.strerror})"
        raise UserError(rule, key="--output", value=str(target), mend="name another folder") from error
    try:
        yield fresh
        if target.exists():  # a folder that is not empty cannot be replaced in one move
            target.rename(old)
        fresh.rename(target)
    finally:
        if old.exists() and not target.exists():
            old.rename(target)
        shutil.rmtree(fresh, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)
        if alone and not target.exists():
            target.parent.rmdir()


def _is_empty_folder(path: Path) -> bool:
    return path.is_dir() and not any(path.iterdir())
