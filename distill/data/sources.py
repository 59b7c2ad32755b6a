"""Where rows come from: the hub, a folder, files or the running Python; and which split is which."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distill.core.draws import order
from distill.core.utils.errors import UserError, first_line, nearest
from distill.core.utils.paths import PACKAGE_PREFIX, at_home, check_path, resolve
from distill.core.utils.quiet import quiet_datasets
from distill.core.utils.words import amount
from distill.data import arrow
from distill.data.arrow import plain_texts
from distill.data.corpus import STDLIB, stdlib
from distill.data.files import OWN, read_files
from distill.data.reader import ReaderConfig

__all__ = ["Source", "find_splits", "hold_out", "load", "read_file", "sample", "set_aside"]

_OTHERS = (".parquet",)

_NO_ROWS = "BatchSize must be greater than 0, got 0"
"""What pyarrow says of a parquet file without a row, and ``datasets`` passes on."""

SPLIT_NAMES = {
    "train": ("train", "training"),
    "validation": ("validation", "dev", "valid", "val", "eval", "validation_matched"),
    "test": ("test", "test_matched"),
}

# One fixed key for each choice of rows. Not the run's seed: runs that differ in it must share their validation
# data, and a teacher's recorded signals.
_HOLD_OUT, _SAMPLE = 1, 2


@dataclass(frozen=True)
class Source:
    """Rows as they were read.

    Attributes:
        splits: The splits by their own names, each a ``datasets.Dataset``.
        mixed: Columns that are in none of them, as their values are of several kinds -> what is wrong.
        notes: What was decided on the way, in words.
    """

    splits: dict[str, Any]
    mixed: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def load(
    path: str | None,
    name: str | None,
    files: Mapping[str, str | list[str]] | None,
    reader: ReaderConfig | None = None,
    document: str | None = None,
    plain: str = "line",
) -> Source:
    """The data set.

    Args:
        path: Hub id, local folder, or ``distill:stdlib``.
        name: Configuration of a hub data set.
        files: Split -> files; instead of ``path``.
        reader: How files of text are read.
        document: What a document of .txt files is.
        plain: What it is if nothing is said.

    Raises:
        UserError: if it is not clear what to read, or it cannot be read.
    """
    if files is not None and path is not None:
        raise UserError(
            "give path or files, not both", key="data.files", value=dict(files), hint="set the other to null"
        )
    if files is not None:
        lists = {split: [names] if isinstance(names, str) else list(names) for split, names in files.items()}
        return _load_files(lists, reader, document, plain)
    if path is None:
        raise UserError("the data is missing", key="data.path", hint="name a data set, a folder, or data.files")
    if path == STDLIB:
        _refuse_options("the standard library", reader, document)
        return Source(dict(stdlib()))
    if path.startswith(PACKAGE_PREFIX):
        raise UserError("the package brings no such data", key="data.path", value=path, hint=nearest(path, [STDLIB]))
    check_path(path, "data.path")
    if at_home(path).is_file():
        problem, hint = "this is a file", f"give it by its split: data.files: {{train: {path}}}, and data.path: null"
        raise UserError(problem, key="data.path", value=path, hint=hint)
    found = resolve(path, "data.path")
    if Path(found).is_dir() and (own := _own_files(found, name)):
        return read_files(own, lambda split: "data.path", reader, document, plain)
    _refuse_options("this data set", reader, document)
    return Source(_read("data.path", path, found, name))


def read_file(path: str, key: str, reader: ReaderConfig | None = None, document: str = "line") -> tuple[Any, Source]:
    """The rows of one file, a ``datasets.Dataset``, and what was found on the way.

    Args:
        path: A csv, tsv, json, jsonl, parquet or txt file.
        key: Where the user named it.
        reader: How files of text are read.
        document: What a row of a .txt file is.

    Raises:
        UserError: if it cannot be read.
    """
    if _checked_file(key, path) in _OTHERS:
        return _parquet(key, [path], []), Source({})
    source = read_files({"rows": [path]}, lambda split: key, reader, None, document)
    return source.splits["rows"], source


def _refuse_options(what: str, reader: ReaderConfig | None, document: str | None) -> None:
    """Refuse options that would change nothing."""
    for key, value in (("data.reader", reader), ("data.document", document)):
        if value is not None:
            hint = "leave it out, or name files in data.files"
            raise UserError(f"is for files of text, and {what} is not read from any", key=key, value=value, hint=hint)


def _own_files(folder: str, name: str | None) -> dict[str, list[str]] | None:
    """The files of a folder by their splits, as ``datasets`` finds them, if all are of a kind that is read here."""
    from datasets import load_dataset_builder

    try:
        found = load_dataset_builder(folder, name).config.data_files or {}
    except Exception:  # whatever it is, loading says it too
        return None
    lists = {str(split): [str(file) for file in files] for split, files in found.items()}
    every = [Path(file) for files in lists.values() for file in files]
    return lists if every and all(file.suffix.lower() in OWN and file.is_file() for file in every) else None


def _load_files(
    lists: Mapping[str, Sequence[str]], reader: ReaderConfig | None, document: str | None, plain: str
) -> Source:
    kinds: dict[str, str] = {}
    for split, names in lists.items():
        key = f"data.files.{split}"
        if not names:
            raise UserError("a split needs a file", key=key, value=names, hint="name one or drop the split")
        for name in names:
            kinds.setdefault(_checked_file(key, name), name)
    if len(kinds) != 1:
        found = ", ".join(f"{name} is {kind.removeprefix('.')}" for kind, name in kinds.items())
        raise UserError(f"files must be of one format: {found}", key="data.files", hint="convert the others")
    if next(iter(kinds)) in OWN:
        return read_files(lists, lambda split: f"data.files.{split}", reader, document, plain)
    _refuse_options("parquet", reader, document)
    source = Source({})
    for split, names in lists.items():
        source.splits[split] = _parquet(f"data.files.{split}", names, source.notes)
    return source


def _checked_file(key: str, name: str) -> str:
    """The ending of a file that is there."""
    check_path(name, key)
    path = at_home(name)
    suffix = path.suffix.lower()
    if any(sign in name for sign in "*?[") and not path.exists():
        hint = "list the files, or name their folder in data.path; distill init FOLDER writes the list"
        raise UserError("patterns are not expanded", key=key, value=name, hint=hint)
    if path.is_dir():
        raise UserError("this is a folder", key=key, value=name, hint="name its files, or give it as data.path")
    if suffix in (".gz", ".zip", ".xz", ".bz2", ".zst"):
        raise UserError("this is a packed file", key=key, value=name, hint="unpack it and name what was in it")
    if suffix not in (*OWN, *_OTHERS):
        known = ", ".join((*OWN, *_OTHERS))
        raise UserError(f"the ending must be one of {known}", key=key, value=name, hint="convert the file")
    if not path.is_file():
        raise UserError("no such file", key=key, value=name, hint="check the path")
    return {".tsv": ".csv", ".json": ".jsonl"}.get(suffix, suffix)


def _parquet(key: str, names: Sequence[str], notes: list[str]) -> Any:
    """Files one after the other; what a file lacks is null. Those without a row are passed over, as ``notes`` say."""
    from datasets import concatenate_datasets

    empty = [name for name in names if _holds_no_rows(str(at_home(name)))]
    names = [name for name in names if name not in empty]
    if not names:
        raise UserError("holds no data: columns, and no rows", key=key, value=empty[0], hint="check the file")
    if empty:
        more = f" and {amount(len(empty) - 1, 'other file')}" if len(empty) > 1 else ""
        notes.append(f"{empty[0]}{more} of {key} {'hold' if more else 'holds'} no rows")
    paths = [str(at_home(name)) for name in names]
    try:
        return _read(key, list(names), "parquet", None, data_files=paths, split="train")
    except UserError:
        if len(paths) == 1:
            raise
    parts = [_read(key, name, "parquet", None, data_files=[name], split="train") for name in paths]
    try:
        return concatenate_datasets(parts)
    except (ValueError, TypeError) as error:
        problem = f"must hold the same kind of values in a column ({first_line(error)})"
        raise UserError(problem, key=key, value=list(names), hint="convert them") from error


def _holds_no_rows(path: str) -> bool:
    """Whether a file is sound, and has no row: which ``datasets`` does not read."""
    from pyarrow import ArrowException, parquet  # type: ignore[import-untyped]

    try:
        return parquet.read_metadata(path).num_rows == 0  # type: ignore[no-any-return]
    except (ArrowException, OSError):  # loading says what is wrong
        return False


def _read(key: str, value: Any, reader: str, name: str | None, **options: Any) -> Any:
    from datasets import load_dataset

    try:
        with quiet_datasets():
            found = load_dataset(reader, name, **options)
            if "split" in options:
                return plain_texts(found)
            return {split: plain_texts(one) for split, one in found.items()}
    except Exception as error:  # readers of foreign files raise whatever they like
        reason = first_line(error.__cause__ or error)
        if "scripts are no longer supported" in reason:
            hint = "move the Python file away, or name the data's files in data.files"
            raise UserError(f"holds a Python file ({reason})", key=key, value=value, hint=hint) from error
        if reason == _NO_ROWS:
            hint = "take it out of the folder; data.files names files one by one"
            raise UserError("a parquet file in it holds no rows", key=key, value=value, hint=hint) from error
        problem = f"cannot be read as a data set ({type(error).__name__}: {reason})"
        raise UserError(problem, key=key, value=value, hint="check path, name and files") from error


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
            raise UserError("no such use of a split", key=f"data.splits.{role}", hint=nearest(role, SPLIT_NAMES))
        if name not in names:
            raise UserError("no such split", key=f"data.splits.{role}", value=name, hint=nearest(name, names))
    if validation_fraction is not None:
        _check_fraction(validation_fraction, given)
    found = {role: next((n for n in known if n in names), None) for role, known in SPLIT_NAMES.items()}
    splits = {role: name for role, name in (found | given).items() if name is not None}
    if "train" not in splits:
        raise UserError("a split for training is missing", key="data.splits.train", hint=f"name one of {names}")
    if validation_fraction is not None:
        splits.pop("validation", None)
    elif "validation" not in splits:
        raise UserError(
            f"a split for validation is missing (there are {names})",
            key="data.splits.validation",
            hint="name one, or take rows from training with data.validation_fraction: 0.05",
        )
    return splits


def set_aside(source: Source, validation_fraction: float | None) -> list[str]:
    """A line on a split for validation that is not read, as training gives rows for it."""
    unread = [name for name in SPLIT_NAMES["validation"] if validation_fraction is not None and name in source.splits]
    return [f"the split {name} is not read: data.validation_fraction takes rows from training" for name in unread[:1]]


def _check_fraction(fraction: float, given: Mapping[str, str]) -> None:
    if not 0 < fraction < 1:
        raise UserError("must lie between 0 and 1", key="data.validation_fraction", value=fraction, hint="try 0.05")
    if "validation" in given:
        raise UserError(
            "validation has a split already",
            key="data.validation_fraction",
            value=fraction,
            hint="drop it or data.splits.validation",
        )


def hold_out(dataset: Any, fraction: float, together: str | None = None) -> tuple[Any, Any]:
    """``dataset`` without some rows, and these rows: at least one, chosen alike in every run.

    Args:
        dataset: The rows.
        fraction: Which share of them, or of the values of ``together``.
        together: A column; rows with one value of it stay together.

    Raises:
        UserError: if there are not two rows, or values, to share out.
    """
    numbers = np.arange(len(dataset)) if together is None else _numbers(dataset, together)
    count = int(numbers.max(initial=-1)) + 1
    if count < 2:
        what = "rows" if together is None else f"values of {together!r}"
        problem = f"there must be {what} for training and validation, and there are {count}"
        hint = "bring more data, or a file for validation; each line of a .txt is a row by --data.document line"
        raise UserError(problem, key="data.validation_fraction", value=fraction, hint=hint)
    held = order(count, _HOLD_OUT)[: min(max(1, round(count * fraction)), count - 1)]
    chosen = np.isin(numbers, held)
    return dataset.select(np.flatnonzero(~chosen)), dataset.select(np.flatnonzero(chosen))


def _numbers(dataset: Any, column: str) -> NDArray[np.int64]:
    """A number of every row from 0, shared by those of one value."""
    found = arrow.column(dataset, column).combine_chunks().dictionary_encode().indices.fill_null(0)
    return np.asarray(found.to_numpy(zero_copy_only=False), np.int64)


def sample(dataset: Any, count: int) -> Any:
    """``count`` rows of ``dataset`` in their order, chosen alike in every run; a smaller choice is part of a larger."""
    return dataset if count >= len(dataset) else dataset.select(np.sort(order(len(dataset), _SAMPLE)[:count]))
