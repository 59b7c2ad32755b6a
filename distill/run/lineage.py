"""The labels that a run learns from, and those that its teacher did. No torch here."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from distill.config.files import long_form
from distill.core.utils.errors import UserError
from distill.core.utils.json_file import number_at
from distill.core.utils.paths import find_local
from distill.run.baseline import learns_alone
from distill.run.folder import Run
from distill.run.listing import read_json

__all__ = ["lineage"]

_ROWS = ("class_path", "path", "name", "files", "splits", "validation_fraction", "train_samples")
"""Keys of the data that say which rows there are."""


def lineage(config: Mapping[str, Any], data: Any) -> dict[str, Any]:
    """What a run's record says of this, for it and for those that it will teach.

    Args:
        config: The run's, resolved.
        data: Its data module.

    Returns:
        ``learned_from``: training ``rows``, and how many are ``labelled``; not of data that has no labels.
        ``teacher_learned_from``: the ``labelled`` rows that the teacher was trained on, ``None`` where that is not
        known (it is no run's, or had a teacher itself), and whether its rows are these, ``same_rows``; not where no
        loss reads a teacher.
    """
    found = {"learned_from": getattr(data, "learned_from", None)}
    if not learns_alone(config):
        found["teacher_learned_from"] = _of_teacher(config)
    return {key: value for key, value in found.items() if value is not None}


def _of_teacher(config: Mapping[str, Any]) -> dict[str, Any]:
    unknown = {"labelled": None, "same_rows": False}
    run = _run(config["model"]["teacher"])
    if run is None:
        return unknown
    try:
        theirs = run.config
    except (UserError, OSError, ValueError):
        return unknown
    if not learns_alone(theirs):
        return unknown
    labelled = number_at(read_json(run.result_file)[0], "learned_from", "labelled")
    return {"labelled": labelled, "same_rows": _rows(theirs) == _rows(config)}


def _run(teacher: Any) -> Run | None:
    """The run whose student the teacher is; of several teachers none."""
    path = teacher.get("path") if isinstance(teacher, Mapping) else teacher
    local = find_local(path) if isinstance(path, str) else None
    folders = [] if local is None else [local, local.parent] if local.name == "student" else [local]
    return next((Run(Path(folder)) for folder in folders if (folder / "config.yaml").is_file()), None)


def _rows(config: Mapping[str, Any]) -> dict[str, Any]:
    data = long_form(config).get("data") or {}
    given = {"class_path": data.get("class_path")} | (data.get("init_args") or {})
    return {key: given[key] for key in _ROWS if given.get(key) is not None}
