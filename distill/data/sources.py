"""Where rows come from: the hub, a folder, files or the running Python; and which split is which."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from distill.data.corpus import STDLIB, stdlib
from distill.data.draws import order
from distill.errors import UserError, nearest
from distill.paths import PACKAGE_PREFIX, resolve

__all__ = ["find_splits", "hold_out", "load", "sample"]

_READERS = {".csv": "csv", ".tsv": "csv", ".json": "json", ".jsonl": "json", ".parquet": "parquet", ".txt": "text"}

SPLIT_NAMES = {
    "train": ("train", "training"),
    "validation": ("validation", "dev", "valid", "val", "eval", "validation_matched"),
    "test": ("test", "test_matched"),
}

# One fixed key for each choice of rows. Not the run's seed: runs that differ in it must share their validation
# data, and a teacher's recorded signals.
_HOLD_OUT, _SAMPLE = 1, 2


def load(path: str | None, name: str | None, files: Mapping[str, str | list[str]] | None) -> dict[str, Any]:
    """The data set's splits by their own names, each a ``datasets.Dataset``.

    Args:
        path: Hub id, local folder, or ``distill:stdlib``.
        name: Configuration of a hub data set.
        files: Split -> files; instead of ``path``.

    Raises:
        UserError: if it is not clear what to read, or it cannot be read.
    """
    if files is not None and path is not None:
        raise UserError(
            "give path or files, not both", key="data.files", value=dict(files), mend="set the other to null"
        )
    if files is not None:
        return _load_files(files)
    if path is None:
        raise UserError("the data is missing", key="data.path", mend="name a data set, a folder, or data.files")
    if path == STDLIB:
        return dict(stdlib())
    if path.startswith(PACKAGE_PREFIX):
        raise UserError("the package brings no such data", key="data.path", value=path, mend=nearest(path, [STDLIB]))
    return _read("data.path", path, resolve(path, "data.path"), name)


def _load_files(files: Mapping[str, str | list[str]]) -> dict[str, Any]:
    lists = {split: [names] if isinstance(names, str) else list(names) for split, names in files.items()}
    readers = set()
    for split, names in lists.items():
        key = f"data.files.{split}"
        if not names:
            raise UserError("a split needs a file", key=key, value=names, mend="name one or drop the split")
        for name in names:
            suffix = Path(name).suffix.lower()
            if suffix not in _READERS:
                known = ", ".join(_READERS)
                raise UserError(f"the ending must be one of {known}", key=key, value=name, mend="convert the file")
            if not Path(name).expanduser().is_file():
                raise UserError("no such file", key=key, value=name, mend="check the path")
            readers.add((_READERS[suffix], suffix))
    if len(readers) != 1:
        raise UserError("files must be of one format", key="data.files", value=lists, mend="convert the others")
    reader, suffix = readers.pop()
    paths = {split: [str(Path(n).expanduser()) for n in names] for split, names in lists.items()}
    options = {"sep": "\t"} if suffix == ".tsv" else {}
    try:
        return _read("data.files", lists, reader, None, data_files=paths, **options)
    except UserError as error:
        raise (_other_columns(paths, reader, options) or error) from error.__cause__


def _other_columns(paths: Mapping[str, list[str]], reader: str, options: Mapping[str, Any]) -> UserError | None:
    """What to say where files that are read together have not all the same columns; ``None`` if that is not it."""
    from datasets import load_dataset

    found: dict[str, tuple[str, ...]] = {}
    for file in (file for files in paths.values() for file in files):
        with suppress(Exception):  # one that cannot be read alone either
            rows = load_dataset(reader, data_files=[file], split="train", streaming=True, **options)
            found[file] = tuple(next(iter(rows)))
    if len({frozenset(columns) for columns in found.values()}) < 2:
        return None
    lines = "".join(f"\n  {file}: {', '.join(columns)}" for file, columns in found.items())
    rule = f"must have the same columns in all files. There are:{lines}\n"
    return UserError(rule, key="data.files", mend="rename them")


def _read(key: str, value: Any, reader: str, name: str | None, **options: Any) -> dict[str, Any]:
    from datasets import load_dataset
    from datasets.exceptions import DatasetsError

    try:
        return dict(load_dataset(reader, name, **options))
    except (OSError, ValueError, DatasetsError, StopIteration) as error:  # StopIteration: an empty file
        rule = f"cannot be read as a data set ({type(error).__name__}: {_first_line(error.__cause__ or error)})"
        raise UserError(rule, key=key, value=value, mend="check path, name and files") from error


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [""])[0][:200]


def find_splits(
    names: Iterable[str], given: Mapping[str, str] | None, validation_fraction: float | None
) -> dict[str, str]:
    """Which split is for what: ``train``, ``validation``, ``test`` -> its name.

    Without a split for validation, ``validation_fraction`` says that training gives some of its rows.

    Raises:
        UserError: if a split is unknown or missing, or validation is given twice.
    """
    names, given = list(names), dict(given or {})
    for role, name in given.items():
        if role not in SPLIT_NAMES:
            raise UserError("no such use of a split", key=f"data.splits.{role}", mend=nearest(role, SPLIT_NAMES))
        if name not in names:
            raise UserError("no such split", key=f"data.splits.{role}", value=name, mend=nearest(name, names))
    if validation_fraction is not None:
        _check_fraction(validation_fraction, given)
    found = {role: next((n for n in known if n in names), None) for role, known in SPLIT_NAMES.items()}
    splits = {role: name for role, name in (found | given).items() if name is not None}
    if "train" not in splits:
        raise UserError("a split for training is missing", key="data.splits.train", mend=f"name one of {names}")
    if validation_fraction is not None:
        splits.pop("validation", None)
    elif "validation" not in splits:
        raise UserError(
            f"a split for validation is missing (there are {names})",
            key="data.splits.validation",
            mend="name one, or take rows from training with data.validation_fraction: 0.05",
        )
    return splits


def _check_fraction(fraction: float, given: Mapping[str, str]) -> None:
    if not 0 < fraction < 1:
        raise UserError("must lie between 0 and 1", key="data.validation_fraction", value=fraction, mend="try 0.05")
    if "validation" in given:
        raise UserError(
            "validation has a split already",
            key="data.validation_fraction",
            value=fraction,
            mend="drop it or data.splits.validation",
        )


def hold_out(dataset: Any, fraction: float) -> tuple[Any, Any]:
    """``dataset`` without some rows, and these rows: at least one, chosen alike in every run.

    Raises:
        UserError: if there are not two rows to share out.
    """
    if len(dataset) < 2:
        rule = f"there must be rows for training and validation, and there are {len(dataset)}"
        raise UserError(rule, key="data.validation_fraction", value=fraction, mend="bring more data")
    count = min(max(1, round(len(dataset) * fraction)), len(dataset) - 1)
    rows = order(len(dataset), _HOLD_OUT)
    return dataset.select(np.sort(rows[count:])), dataset.select(np.sort(rows[:count]))


def sample(dataset: Any, count: int) -> Any:
    """``count`` rows of ``dataset`` in their order, chosen alike in every run; a smaller choice is part of a larger."""
    return dataset if count >= len(dataset) else dataset.select(np.sort(order(len(dataset), _SAMPLE)[:count]))
