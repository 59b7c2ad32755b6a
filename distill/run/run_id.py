"""The name and the id of a run: what they may be, and whose id a folder has that was renamed or copied."""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from distill.core.utils.errors import UserError
from distill.core.utils.json_file import read_mapping

__all__ = ["check_name", "new_id", "own_id"]

_LONGEST = 200  # of the 255 that a file's name may have: files beside the folder begin with its name
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def new_id() -> str:
    """A run's name for life, here and in W&B: ``20261121-103000-ab12``, which sorts by time."""
    return f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"


def check_name(key: str, value: str) -> None:
    """Refuse what cannot be a folder's name.

    Raises:
        UserError: naming ``key``.
    """
    if not _NAME.fullmatch(value):
        problem = "must be a folder's name: letters, digits, dot, dash and underscore"
        raise UserError(problem, key=key, value=value, hint="begin with a letter or digit")
    if len(value) > _LONGEST:
        problem = f"must be no longer than {_LONGEST} letters"
        raise UserError(problem, key=key, value=value, hint="give a shorter one")


def own_id(folder: Path, plan: Mapping[str, Any]) -> tuple[str, str]:
    """The id that is a run's for life, also where the folder was renamed; a copy gets one of its own.

    Args:
        folder: The run's.
        plan: What ``plan.json`` in it holds.

    Returns:
        The id, and that of the run which the folder is a copy of, or nothing.

    Raises:
        UserError: if the id that ``plan.json`` names is none.
    """
    own = plan.get("id", folder.name)
    if not isinstance(own, str) or not _NAME.fullmatch(own):
        file = folder / "plan.json"
        raise UserError("is no run's id", key=f"{file.name}: id", value=own, hint=f"correct {file}")
    if not _is_original(Path(str(plan.get("folder") or folder.parent / own)), own, folder):
        return own, ""
    return folder.name if folder.name != own and _NAME.fullmatch(folder.name) else new_id(), own


def _is_original(folder: Path, own: str, copy: Path) -> bool:
    """Whether in ``folder`` lies the run of this id, of which ``copy``, another folder, is a copy."""
    try:
        there = (folder / "config.yaml").is_file() and not folder.samefile(copy)
        return there and read_mapping(folder / "plan.json").get("id") == own
    except (OSError, ValueError):
        return False
