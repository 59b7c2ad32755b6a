"""Plain text files as documents."""

from __future__ import annotations

import re
from typing import Any

import pyarrow as pa  # type: ignore[import-untyped]

from distill.core.utils.errors import UserError
from distill.data.reader import ReaderConfig, read_text

__all__ = ["DOCUMENTS", "read_documents", "split_documents"]

DOCUMENTS = {
    "paragraph": "what stands between blank lines, with its line breaks and the blank lines after it",
    "file": "a whole file",
    "line": "a line, without its line break",
}
"""What a document may be, in words."""

_BLANK = {"\n": re.compile(r"\n(?:[ \t]*\r?\n)+"), "\r": re.compile(r"\r(?:[ \t]*\r)+")}


def split_documents(text: str, document: str) -> list[str]:
    """The documents of ``text``: joined they are the text again, but for the line breaks between lines."""
    if document == "file":
        return [text]
    end = "\r" if "\r" in text and "\n" not in text else "\n"  # as old files of a Macintosh have it
    if document == "line":
        return [line.removesuffix("\r") for line in text.removesuffix(end).split(end)]
    documents, start = [], 0
    for match in _BLANK[end].finditer(text):
        if text[start : match.start()].strip():  # else blank lines at the beginning, which go to the first
            documents.append(text[start : match.end()])
            start = match.end()
    rest = text[start:]
    if rest.strip() or not documents:
        return [*documents, rest]
    documents[-1] += rest
    return documents


def read_documents(path: str, key: str, config: ReaderConfig, document: str) -> Any:
    """A table with one column, ``text``.

    Raises:
        UserError: if there is no text in the file.
    """
    text = read_text(path, key, config)
    if not text.strip():
        raise UserError("holds no text", key=key, value=path, hint="check the file")
    return pa.table({"text": pa.array(split_documents(text, document), pa.large_string())})
