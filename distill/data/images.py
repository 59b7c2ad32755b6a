"""Columns of pictures: where the paths in them begin, and whether they hold pictures at all."""

from __future__ import annotations

import functools
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.compute as pc  # type: ignore[import-untyped]

from distill.core.images import ImageSettings
from distill.core.ranks import is_rank_zero
from distill.core.task import TextTask
from distill.core.utils.errors import UserError
from distill.core.utils.paths import at_home
from distill.core.utils.quiet import quiet_datasets
from distill.core.utils.words import amount
from distill.data import arrow
from distill.data.columns import find_columns
from distill.data.sources import Source

__all__ = ["check_settings", "located"]

_BESIDE = frozenset({".csv", ".json", ".jsonl", ".md", ".parquet", ".txt", ".tsv", ".yaml", ".yml", ".db", ".ini"})
"""Endings of files that lie beside pictures and are none."""


def check_settings(settings: ImageSettings | None, task: TextTask, tokenizer: str) -> None:
    """Refuse settings of pictures that cannot be, or change nothing.

    Raises:
        UserError: naming the key.
    """
    if settings is None:
        return
    if task.reads != "pictures":
        problem, hint = f"{task.name} reads no pictures", "leave it out, or name a task of pictures in model.task"
        raise UserError(problem, key="data.images", value=None, hint=hint)
    if not 0 <= settings.crop <= 0.5:
        problem, hint = "must lie between 0 and 0.5", "0.125 is usual"
        raise UserError(problem, key="data.images.crop", value=settings.crop, hint=hint)
    if settings.size is not None and settings.size < 1:
        raise UserError("must be at least 1", key="data.images.size", value=settings.size, hint="give pixels")
    for name, given in (("size", settings.size is not None), ("grey", settings.grey)):
        if given and (tokenizer or settings.size is None):
            beside = "a model's own image processor" if tokenizer else "no data.images.size"
            hint = "leave it out, or set data.tokenizer: ''" if tokenizer else "give data.images.size"
            problem = f"has no effect with {beside}"
            raise UserError(problem, key=f"data.images.{name}", value=getattr(settings, name), hint=hint)


def located(
    source: Source,
    task: TextTask,
    columns: Mapping[str, str] | None,
    files: Mapping[str, Any] | None,
    folder: str | None,
    path: str | None = None,
) -> Source:
    """``source`` with whole paths in its column of pictures, none of which anybody has decoded yet.

    Args:
        source: The rows as they were read.
        task: Says which column it is.
        columns: Role -> column, as the user has it.
        files: Split -> files, as the user has it.
        folder: Where paths begin; the folder of a split's files, or ``path``, if not given.
        path: A folder, as the user has it.

    Raises:
        UserError: if the files of a split lie in several folders, and nothing says where paths begin.
    """
    every = list(dict.fromkeys(name for rows in source.splits.values() for name in rows.column_names))
    given = {role: name for role, name in (columns or {}).items() if role in task.columns}
    column = find_columns(task, every, given, source.mixed)["image"]
    home = at_home(path).absolute() if path is not None and at_home(path).is_dir() else None
    begin = folder if folder is not None or home is None else str(home)
    splits = {
        split: _located(rows, column, _folder(split, (files or {}).get(split), begin))
        for split, rows in source.splits.items()
    }
    left = [] if home is None or not is_rank_zero() else _left_aside(home, splits, column)
    return replace(source, splits=splits, notes=[*source.notes, *left])


def _left_aside(home: Path, splits: Mapping[str, Any], column: str) -> list[str]:
    """What to say of the files in a folder of pictures that none of the rows is of.

    Folders are compared as they are once links and ``..`` are followed, which rows may spell otherwise. A million
    files are walked in seconds: each is looked at by name alone, unless it seems to be left.
    """
    paths = [_paths(rows, column) for rows in splits.values() if column in rows.column_names]
    if any(each is None for each in paths):
        return []
    real = functools.cache(os.path.realpath)
    whole = (os.path.split(path) for each in paths for path in each.to_pylist() if path)
    known = {os.path.join(real(folder), name) for folder, name in whole}
    if not known:
        return []
    left = [file for file in map(Path, sorted(_files(real(home)) - known)) if _aside(file)]
    if not left:
        return []
    endings = Counter(file.suffix.lower() or "no ending" for file in left)
    listed = ", ".join(f"{ending} {count:,}" for ending, count in endings.most_common(4))
    rest = "" if len(endings) <= 4 else f" and {len(endings) - 4} more endings"
    said = f"{amount(len(left), 'file')} in the folder {'is' if len(left) == 1 else 'are'} not read ({listed}{rest})"
    return [f"{said}, as {left[0].relative_to(real(home))}: convert what should be, or list it in a table"]


def _files(home: str) -> set[str]:
    """All files below ``home``, but those that are hidden, or in a folder that is."""
    found: set[str] = set()
    for place, folders, names in os.walk(home):
        folders[:] = [folder for folder in folders if folder[0] != "."]
        found.update(os.path.join(place, name) for name in names if name[0] != ".")
    return found


def _aside(file: Path) -> bool:
    """Whether a file that no row is of could be a picture."""
    return file.suffix.lower() not in _BESIDE and file.is_file()


def _paths(rows: Any, column: str) -> Any:
    """The paths in a column of pictures that lie in files of their own; ``None`` of others."""
    values = arrow.column(rows, column)
    if arrow.fields(values) >= {"bytes", "path"}:
        held, paths = (pc.struct_field(values, name) for name in ("bytes", "path"))
        return paths.filter(pc.is_null(held))
    return values if arrow.kind(values) == "text" and not arrow.is_list(values) else None


def _folder(split: str, files: Any, folder: str | None) -> Path:
    if folder is not None or files is None:
        return at_home(folder or ".").absolute()
    names = [files] if isinstance(files, str) else list(files)
    found = {at_home(name).absolute().parent for name in names}
    if len(found) > 1:
        problem = "the files lie in several folders, and nothing says where the paths in them begin"
        raise UserError(problem, key=f"data.files.{split}", value=names, hint="name it: data.images.folder")
    return found.pop()


def _located(rows: Any, column: str, folder: Path) -> Any:
    from datasets import Image

    if column not in rows.column_names:
        return rows
    if isinstance(rows.features[column], Image):
        rows = rows.cast_column(column, Image(decode=False))
    paths = _paths(rows, column)
    if paths is None or all(path is None or Path(path).is_absolute() for path in pc.unique(paths).to_pylist()):
        return rows

    def placed(value: Any) -> Any:
        if isinstance(value, Mapping):
            return value if value["bytes"] is not None else {"bytes": None, "path": placed(value["path"])}
        return str(folder / at_home(value)) if value else None

    def whole(batch: dict[str, Any]) -> dict[str, Any]:
        return {column: [placed(value) for value in batch[column]]}

    with quiet_datasets():
        return rows.map(whole, batched=True)
