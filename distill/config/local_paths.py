"""Local paths of a configuration made absolute, so that it means the same in every working folder."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from distill.core.utils.paths import find_local

__all__ = ["absolute_paths", "is_place"]

_PLACES = re.compile(
    r"model\.(teacher|student)(\.path|\.tokenizer|\.recorded)?|data\.init_args\.(path|tokenizer|chat_template|files\..+)"
)
"""Dotted keys, without positions in lists, whose texts may name a local file or folder."""


def absolute_paths(config: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """``config`` with the absolute path in place of each that leads from ``folder`` to something that is there.

    Hub ids and ``distill:`` names stay, and so does what is not there. What could be either a hub id or a local
    folder is the folder, as it is when it is loaded (:func:`distill.core.utils.paths.resolve`).

    Args:
        config: With ``data`` in its long form.
        folder: The working folder that its relative paths are of; absolute.
    """
    return {key: _walked(value, key, folder) for key, value in config.items()}


def is_place(key: str) -> bool:
    """Whether the dotted ``key``, as an override gives it, may name a local file or folder."""
    parts = [part for part in key.split(".") if not part.isdigit()]
    if parts[0] == "data":
        parts.insert(1, "init_args")
    return _PLACES.fullmatch(".".join(parts)) is not None


def _walked(value: Any, place: str, folder: Path) -> Any:
    if isinstance(value, Mapping):
        return {key: _walked(item, f"{place}.{key}", folder) for key, item in value.items()}
    if isinstance(value, list):
        return [_walked(item, place, folder) for item in value]
    return _located(value, folder) if isinstance(value, str) and _PLACES.fullmatch(place) else value


def _located(path: str, folder: Path) -> str:
    found = find_local(path, folder)
    return path if found is None else str(found.resolve())
