"""Files of text as data sets: csv, tsv, json, jsonl and txt."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa  # type: ignore[import-untyped]

from distill.core.utils.errors import UserError
from distill.core.utils.paths import at_home
from distill.data.delimited import read_delimited
from distill.data.json_rows import read_json
from distill.data.plain_text import DOCUMENTS, read_documents
from distill.data.reader import ReaderConfig, file_fingerprint

if TYPE_CHECKING:
    from distill.data.sources import Source

__all__ = ["OWN", "read_files"]

OWN = (".csv", ".tsv", ".json", ".jsonl", ".txt")
"""Endings that are read here."""

_DELIMITED, _JSON, _TEXT = (".csv", ".tsv"), (".json", ".jsonl"), (".txt",)


def read_files(
    files: Mapping[str, Sequence[str]],
    key_of: Callable[[str], str],
    reader: ReaderConfig | None,
    document: str | None,
    plain: str,
) -> Source:
    """Every split, its files one after the other; a column that one of them lacks is null there.

    Args:
        files: Split -> files.
        key_of: Split -> where the configuration names them.
        reader: How they are read.
        document: What a document of .txt files is.
        plain: What it is if nothing is said.

    Raises:
        UserError: naming file and line of what cannot be read, or an option that changes nothing.
    """
    suffixes = {Path(name).suffix.lower() for names in files.values() for name in names}
    _check_options(suffixes, reader, document)
    config, document = reader or ReaderConfig(), document or plain
    source, plain_in = _read(files, key_of, config, document)
    if plain_in is not None:  # one way for all: a text must not keep its marks in one split and lose them in another
        source, _ = _read(files, key_of, replace(config, quoting="none"), document)
        source.notes.append(f"quotation marks are text (data.reader.quoting: none), as {plain_in} has them")
    if suffixes & {*_TEXT}:
        source.notes.append(f"a document of the .txt files is {DOCUMENTS[document]} (data.document: {document})")
    return source


def _read(
    files: Mapping[str, Sequence[str]], key_of: Callable[[str], str], config: ReaderConfig, document: str
) -> tuple[Source, str | None]:
    """The rows, and the first file whose quotation marks were found to be text."""
    from distill.data.sources import Source

    source = Source({})
    plain: list[str] = []
    for split, names in files.items():
        tables = [_one(name, key_of(split), config, document, source, plain) for name in names]
        try:
            table = tables[0] if len(tables) == 1 else pa.concat_tables(tables, promote_options="permissive")
        except pa.ArrowException as error:
            problem = f"must hold the same kind of values in a column ({str(error).splitlines()[0]})"
            raise UserError(problem, key=key_of(split), value=list(names), hint="convert them") from error
        how = [(config, document), *(file_fingerprint(name) for name in names)]
        source.splits[split] = _dataset(table.drop_columns([c for c in source.mixed if c in table.column_names]), how)
    return source, plain[0] if plain else None


def _one(name: str, key: str, config: ReaderConfig, document: str, source: Source, plain: list[str]) -> Any:
    """A file's table; what cannot be used is added to ``source``, a path to those whose quotation marks are text."""
    path, suffix = str(at_home(name)), Path(name).suffix.lower()
    if suffix in _TEXT:
        return read_documents(path, key, config, document)
    if suffix in _JSON:
        table, mixed = read_json(path, key, config)
        source.mixed.update({column: f"{path} {why}" for column, why in mixed.items()})
        return table
    table, marks_are_text = read_delimited(path, key, config)
    plain.extend([path] * bool(marks_are_text))
    return table


def _dataset(table: Any, how: Sequence[Any]) -> Any:
    from datasets import Dataset
    from datasets.fingerprint import Hasher

    # Of the content, so that what was tokenized once is found again, also after a copy of the files.
    return Dataset(table, fingerprint=Hasher.hash([repr(one) for one in how]))


def _check_options(suffixes: set[str], reader: ReaderConfig | None, document: str | None) -> None:
    if document is not None and document not in DOCUMENTS:
        known = " or ".join(DOCUMENTS)
        raise UserError(f"must be {known}", key="data.document", value=document, hint="paragraph keeps line breaks")
    if document is not None and not suffixes & {*_TEXT}:
        problem = f"is for .txt files, and these are {', '.join(sorted(suffixes))}"
        raise UserError(problem, key="data.document", value=document, hint="leave it out")
    if reader is None or suffixes & {*_DELIMITED}:
        return
    for name, default in vars(ReaderConfig()).items():
        value = getattr(reader, name)
        if name != "encoding" and value != default:
            problem = "is for csv and tsv files"
            raise UserError(problem, key=f"data.reader.{name}", value=value, hint="leave it out")
