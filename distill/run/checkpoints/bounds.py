"""What a checkpoint's file may take in memory: no more than it is long."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

__all__ = ["is_dense", "is_stored"]


def is_stored(path: str | Path) -> bool:
    """Whether the archive at ``path`` holds its records as they are, none of them twice: torch compresses nothing.

    A deflated record of a thousandth of the size, or records that lie over each other, would fill the memory.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            records = archive.infolist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError):  # of names that are no text, of other kinds of zip
        return False
    plain = all(record.compress_type == zipfile.ZIP_STORED for record in records)
    return plain and sum(record.file_size for record in records) <= Path(path).stat().st_size


def is_dense(value: Any) -> bool:
    """Whether no tensor in ``value`` is larger than the memory that it is a view of: a copy would be as large.

    No run writes any that is sparse, or on no device.
    """
    waiting, seen = [value], set[int]()
    while waiting:
        item = waiting.pop()
        if id(item) in seen:  # what holds itself, or the same many times over
            continue
        seen.add(id(item))
        if isinstance(item, Tensor):
            if item.layout is not torch.strided or item.is_meta or item.is_nested:
                return False
            if item.numel() * item.element_size() > item.untyped_storage().nbytes():
                return False
        elif isinstance(item, dict):
            waiting += item.values()
        elif isinstance(item, (list, tuple)):
            waiting += item
    return True
