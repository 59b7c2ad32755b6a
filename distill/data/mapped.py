"""Long columns of numbers in flat files, which the system reads a page at a time where they are asked for."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["LARGE", "mapped"]

LARGE = 2**24
"""Values from which on a column is kept on disk: 64 MB of tokens."""


def mapped(parts: Iterable[NDArray[Any]], total: int, dtype: np.dtype[Any], file: Path) -> NDArray[Any]:
    """All ``parts`` end to end in ``file``, ``[total]``, read from there: no process holds them in its own memory.

    Args:
        parts: Read one at a time, and only where the file is not there yet.
        total: Values of all of them.
        dtype: Of the values.
        file: ``.npy``; its name says what is in it, so what is there is taken for it.

    Raises:
        OSError: if it cannot be written; nothing of it is left then.
    """
    if not _whole(file, total, dtype):
        fresh = file.with_name(f".{file.name}.{uuid.uuid4().hex[:8]}")
        try:
            with fresh.open("wb") as into:  # not through a map: a full disk would kill the process there
                np.lib.format.write_array_header_1_0(into, _header(total, dtype))
                for part in parts:
                    into.write(part.astype(dtype, copy=False).data)
                into.flush()
                os.fsync(into.fileno())
            with suppress(FileNotFoundError):  # another process has made the file meanwhile, and removed this one
                os.replace(fresh, file)
            for left in file.parent.glob(f".{file.name}.*"):  # by who was killed
                left.unlink(missing_ok=True)
        finally:
            fresh.unlink(missing_ok=True)
    return np.load(file, mmap_mode="r")  # type: ignore[no-any-return]


def _header(total: int, dtype: np.dtype[Any]) -> dict[str, Any]:
    return {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": (total,)}


def _whole(file: Path, total: int, dtype: np.dtype[Any]) -> bool:
    try:
        there = np.load(file, mmap_mode="r", allow_pickle=False)
    except (OSError, EOFError, ValueError):  # it is not there; cut short, or no array
        return False
    return bool(there.shape == (total,) and there.dtype == dtype)
