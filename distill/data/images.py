"""Columns of pictures: where the paths in them begin, and whether they hold pictures at all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from distill.core.images import ImageSettings
from distill.core.task import TextTask
from distill.core.utils.errors import UserError
from distill.core.utils.paths import at_home
from distill.core.utils.quiet import quiet_datasets
from distill.data import arrow
from distill.data.columns import find_columns
from distill.data.sources import Source

__all__ = ["check_settings", "located"]


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
) -> Source:
    """``source`` with whole paths in its column of pictures, none of which anybody has decoded yet.

    Args:
        source: The rows as they were read.
        task: Says which column it is.
        columns: Role -> column, as the user has it.
        files: Split -> files, as the user has it.
        folder: Where paths begin; the folder of a split's files if not given.

    Raises:
        UserError: if the files of a split lie in several folders, and nothing says where paths begin.
    """
    every = list(dict.fromkeys(name for rows in source.splits.values() for name in rows.column_names))
    given = {role: name for role, name in (columns or {}).items() if role in task.columns}
    column = find_columns(task, every, given, source.mixed)["image"]
    return replace(
        source,
        splits={
            split: _located(rows, column, _folder(split, (files or {}).get(split), folder))
            for split, rows in source.splits.items()
        },
    )


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
        return rows.cast_column(column, Image(decode=False))
    values = arrow.column(rows, column)
    if arrow.kind(values) != "text" or arrow.is_list(values):
        return rows

    def whole(batch: dict[str, Any]) -> dict[str, Any]:
        return {column: [str(folder / at_home(path)) if path else None for path in batch[column]]}

    with quiet_datasets():
        return rows.map(whole, batched=True)
