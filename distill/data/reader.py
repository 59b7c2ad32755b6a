"""How files of text are read: what the user may say of it, and the bytes of a file as text."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from distill.core.utils.errors import UserError, nearest
from distill.core.utils.paths import at_home

__all__ = ["ReaderConfig", "ReaderOptions", "file_fingerprint", "read_text", "reader_config"]

ReaderOptions = dict[str, str | int | float | bool | list[str | int | float | bool] | None]
"""As the user writes it. Where anything at all may stand jsonargparse reads texts as YAML once more: '?', '1e3'."""

_QUOTING = {0: "minimal", 3: "none"}  # as the standard library's csv and pandas number them
_MAGIC = {
    b"PK\x03\x04": ("a zip archive, as spreadsheets are", "save the sheet as csv"),
    b"\x1f\x8b": ("compressed", "unpack it with gunzip"),
    b"PAR1": ("parquet", "name it .parquet"),
    b"\xd0\xcf\x11\xe0": ("a spreadsheet", "save the sheet as csv"),
}
_MARKS = {b"\xef\xbb\xbf": "utf-8-sig", b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}


@dataclass(frozen=True, kw_only=True)
class ReaderConfig:
    """How csv, tsv, jsonl and txt files are read; all but ``encoding`` is for csv and tsv.

    Attributes:
        sep: What separates fields: one character; a comma in .csv and a tab in .tsv if not given.
        quoting: ``minimal``: a field may stand in quotation marks, and hold separators and line breaks there.
            ``none``: quotation marks are text like any other. If not given, what the file's lines allow.
        quotechar: The quotation mark.
        escapechar: What takes its meaning from the character after it; nothing if not given.
        encoding: Of all files.
        na_values: Fields that stand for nothing, besides empty ones: neither a label nor a text.
        names: The columns, where the files have no header.
    """

    sep: str | None = None
    quoting: str | int | None = None
    quotechar: str = '"'
    escapechar: str | None = None
    encoding: str = "utf-8"
    na_values: list[str] = field(default_factory=list)
    names: list[str] | None = None


def reader_config(given: Mapping[str, Any]) -> ReaderConfig:
    """What the user says of reading, checked.

    Raises:
        UserError: naming the option.
    """
    known = [one.name for one in fields(ReaderConfig)]
    for name, value in given.items():
        if name not in known:
            problem = "readers have no such option"
            raise UserError(problem, key=f"data.reader.{name}", value=value, hint=nearest(name, known))
        texts = isinstance(value, list) and all(isinstance(one, str) for one in value)
        if name in ("names", "na_values") and value is not None and not (texts and value):
            raise UserError(
                "must be a list of texts", key=f"data.reader.{name}", value=value, hint="quote each of them"
            )
    config = ReaderConfig(**{name: value for name, value in given.items() if value is not None})
    if config.sep == "\\t":  # as a shell hands it over
        config = replace(config, sep="\t")
    for name in ("sep", "quotechar", "escapechar"):
        value = getattr(config, name)
        if value is not None and (not isinstance(value, str) or len(value) != 1):
            raise UserError("must be one character", key=f"data.reader.{name}", value=value, hint="give one")
        if value is not None and value in "\r\n":
            problem, hint = "a line break ends a row already", "give another character"
            raise UserError(problem, key=f"data.reader.{name}", value=value, hint=hint)
    if config.sep == config.quotechar:
        problem = "must not be the quotation mark"
        raise UserError(
            problem, key="data.reader.sep", value=config.sep, hint="give another one, or data.reader.quotechar"
        )
    if config.quoting not in (None, *_QUOTING, *_QUOTING.values()):
        problem = "must be 'minimal' or 'none'"
        raise UserError(problem, key="data.reader.quoting", value=config.quoting, hint="'none' where marks are text")
    try:
        "".encode(config.encoding)
    except (LookupError, TypeError, UnicodeError) as error:
        problem, hint = "no such encoding", "utf-8, utf-16, latin-1 and cp1252 are usual"
        raise UserError(problem, key="data.reader.encoding", value=config.encoding, hint=hint) from error
    if isinstance(config.quoting, int):
        return replace(config, quoting=_QUOTING[config.quoting])
    return config


def read_text(path: str, key: str, config: ReaderConfig) -> str:
    """A file's text, with its line breaks as they are and without a byte order mark.

    Raises:
        UserError: if it is no text of this encoding.
    """
    data = at_home(path).read_bytes()
    for magic, (what, hint) in _MAGIC.items():
        if data.startswith(magic):
            raise UserError(f"this is no text: it is {what}", key=key, value=path, hint=hint)
    marked = next((encoding for mark, encoding in _MARKS.items() if data.startswith(mark)), None)
    encoding = marked if marked and config.encoding == "utf-8" else config.encoding
    try:
        text = data.decode(encoding)
    except UnicodeError as error:
        line = data[: getattr(error, "start", 0)].count(b"\n") + 1
        hint = "name the file's own: data.reader.encoding: latin-1, cp1252 or utf-16"
        raise UserError(f"line {line} is no text in {encoding}", key=key, value=path, hint=hint) from error
    if "\0" in text:
        line = text[: text.index("\0")].count("\n") + 1
        hint = "check the file, or name its encoding: data.reader.encoding: utf-16"
        raise UserError(f"line {line} holds bytes that are no text", key=key, value=path, hint=hint)
    return text


def file_fingerprint(path: str, *how: Any) -> str:
    """A hash of a file's content and of how it is read."""
    with at_home(path).open("rb") as file:
        digest = hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16))
    digest.update(json.dumps(how, sort_keys=True, default=str).encode())
    return digest.hexdigest()
