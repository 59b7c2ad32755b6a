"""A corpus that every machine has: the source of the running Python's standard library."""

from __future__ import annotations

import hashlib
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any

__all__ = ["STDLIB", "is_validation", "stdlib"]

STDLIB = "distill:stdlib"
"""The ``path`` under which :class:`~distill.data.text.TextData` offers this corpus."""

VALIDATION_SHARE = 0.06

_TESTS = frozenset({"test", "tests", "idle_test"})
_NOT_STDLIB = frozenset({"site-packages", "dist-packages", "__pycache__", "lib-dynload"})
_GENERATED = frozenset({"encodings", "pydoc_data"})  # character tables and dumped manuals: written by programs


def stdlib(root: str | Path | None = None) -> Any:
    """The standard library's modules as a ``datasets.DatasetDict``: ``train`` and ``validation``.

    Columns are ``text`` (a module's whole source) and ``path`` (relative to ``root``, with slashes), sorted by
    path. About 6 % of the modules are for validation, chosen by a hash of the path: a module stays on its side
    when others come and go. Left out are tests, installed packages, generated tables (``encodings``,
    ``pydoc_data``), what belongs to this machine (``_sysconfigdata*``, ``config-*``) and what is not UTF-8.

    The rows depend on the version of Python, so results are compared only within one.

    Args:
        root: Another folder of modules; the running Python's standard library where ``None``.
    """
    from datasets import Dataset, DatasetDict

    folder = Path(root or sysconfig.get_paths()["stdlib"])
    rows = list(_modules(folder))
    splits = {}
    for split in ("train", "validation"):
        part = [row for row in rows if is_validation(row["path"]) == (split == "validation")]
        data = {name: [row[name] for row in part] for name in ("text", "path")}
        splits[split] = Dataset.from_dict(data)
    return DatasetDict(splits)


def is_validation(path: str) -> bool:
    """Whether the module at ``path`` (relative, with slashes) is for validation."""
    digest = hashlib.blake2b(path.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") < VALIDATION_SHARE * 2**64


def _modules(root: Path) -> Iterator[dict[str, str]]:
    """The modules under ``root`` that belong to the corpus, in the order of their paths."""
    paths = {path.relative_to(root).as_posix(): path for path in root.rglob("*.py")}
    for name in sorted(paths):
        if not _belongs(name):
            continue
        try:
            text = paths[name].read_text(encoding="utf-8")
        except (UnicodeDecodeError, OSError):
            continue
        if text.strip():
            yield {"text": text, "path": name}


def _belongs(name: str) -> bool:
    parts = name.split("/")
    if _NOT_STDLIB.union(_TESTS, _GENERATED) & set(parts[:-1]):
        return False
    return not parts[0].startswith(("config-", "_sysconfigdata"))
