"""The small JSON files of a run, which may have been cut off, altered, or put there by somebody else. Light."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from distill.core.utils.files import read

__all__ = ["Unreadable", "number_at", "read_mapping"]


class Unreadable(ValueError):
    """Of a file that does not hold what it should; the message says why, as the end of a sentence."""


def read_mapping(file: Path) -> dict[str, Any]:
    """The mapping that ``file`` holds.

    Raises:
        FileNotFoundError: if it is not there.
        Unreadable: if it holds none, or is no file that can be read.
    """
    try:
        found = json.loads(read(file).decode(), object_pairs_hook=_mapping)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise Unreadable(f"cannot be read ({error.strerror})") from None
    except RecursionError:
        raise Unreadable("cannot be read (it is nested too deep)") from None
    except ValueError as error:
        raise Unreadable(f"cannot be read ({error})") from None
    if not isinstance(found, dict):
        raise Unreadable("cannot be read (it holds no mapping)")
    return found


def number_at(found: Any, *keys: Any) -> float | None:
    """The finite number below ``keys``; ``None`` where there is none, whatever else stands there."""
    for key in keys:
        found = found.get(key) if isinstance(found, dict) and isinstance(key, str) else None
    if isinstance(found, bool) or not isinstance(found, (int, float)):
        return None
    return found if abs(found) <= sys.float_info.max else None  # no infinity, and no integer that is no float


def _mapping(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("it names a key twice")
    return found
