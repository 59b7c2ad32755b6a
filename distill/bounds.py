"""What a checkpoint's file may take in memory: no more than it is long."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

from torch import Tensor

__all__ = ["is_dense", "is_stored"]


def is_stored(path: str | Path) -> bool:
    """Whether the archive at ``path`` holds its records as they are, none of them twice: torch compresses nothing.

    A deflated record of a thousandth of the size, or records that lie over each other, would fill the memory.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            records = archive.infolist()
    except zipfile.BadZipFile:
        return False
    plain = all(record.compress_type == zipfile.ZIP_STORED for record in records)
    return plain and sum(record.file_size for record in records) <= Path(path).stat().st_size


def is_dense(value: Any) -> bool:
    """Whether no tensor in ``value`` is larger than the memory that it is a view of: a copy would be as large."""
    waiting = [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, Tensor):
            if item.numel() * item.element_size() > item.untyped_storage().nbytes():
                return False
        elif isinstance(item, dict):
            waiting += item.values()
        elif isinstance(item, (list, tuple)):
            waiting += item
    return True
