"""Which files of a folder are data, and which split each belongs to, by their names. Light."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from distill.core.utils.errors import UserError
from distill.core.utils.paths import at_home, check_path

__all__ = ["Found", "find_files"]

KEY = "DATA"
_KINDS = {".csv": "csv", ".tsv": "csv", ".json": "jsonl", ".jsonl": "jsonl", ".parquet": "parquet", ".txt": "txt"}
"""Ending -> format; files of one run have one format."""

_SPLITS = {
    "train": {"train", "training"},
    "validation": {"validation", "valid", "val", "dev", "eval"},
    "test": {"test"},
}
_PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif")
_NO_DATA = {"readme", "license", "licence", "requirements", "notice", "changelog", "dataset_info", "state"}


@dataclass
class Found:
    """Files by what they are for.

    Attributes:
        splits: ``train``, ``validation``, ``test`` -> files, as the user wrote their folder.
        notes: What was decided, in words.
    """

    splits: dict[str, list[str]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def find_files(paths: Sequence[str]) -> Found:
    """The data among ``paths``: files, and the files that lie in folders.

    A name tells the split (``train.csv``, ``reviews-dev.jsonl``, ``test-00000-of-00001.parquet``). Where no name does,
    all are for training.

    Raises:
        UserError: if there is none, one is of another kind, or the formats differ.
    """
    named: list[str] = []
    for path in paths:
        check_path(path, KEY)
        place = at_home(path)
        if place.is_dir():
            named += _inside(path, place)
        elif not place.is_file():
            raise UserError("no such file or folder", key=KEY, value=path, hint="check the path")
        elif place.suffix.lower() not in _KINDS:
            problem = f"the ending must be one of {', '.join(_KINDS)}"
            raise UserError(problem, key=KEY, value=path, hint="convert the file")
        else:
            named.append(path)
    found = Found()
    named = _one_format(list(dict.fromkeys(named)), found.notes)
    by_role: dict[str, list[str]] = {}
    for name in named:
        by_role.setdefault(_role(name), []).append(name)
    others = by_role.pop("", [])
    if "train" not in by_role:
        by_role, others = {"train": others, **by_role}, []
    if not by_role["train"]:
        there = ", ".join(by_role["validation"] if "validation" in by_role else by_role["test"])
        problem = f"no file is for training: by their names they are for validation or testing ({there})"
        raise UserError(problem, key=KEY, value=paths[0], hint="name the file for training too")
    if others:
        found.notes.append(
            f"not used, as its name tells no split: {', '.join(others)} (rows without a label may be added to "
            "data.files.train: a teacher says what to learn there)"
        )
    found.splits = {role: by_role[role] for role in _SPLITS if role in by_role}
    return found


def _inside(path: str, folder: Path) -> list[str]:
    places = [folder, folder / "data"]
    for place in places:
        files = sorted(
            file
            for file in (place.iterdir() if place.is_dir() else ())
            if file.is_file()
            and file.suffix.lower() in _KINDS
            and not file.name.startswith(".")
            and file.stem.lower() not in _NO_DATA
        )
        if files:
            return [str(Path(path, file.relative_to(folder))) for file in files]
    problem = f"holds no file that ends in {', '.join(_KINDS)}"
    hint = "name the files, or the folder that they lie in"
    if any(file.suffix.lower() in _PICTURES for file in folder.rglob("*")):
        hint = "folders of pictures need no configuration of their own: docs/images.md"
    raise UserError(problem, key=KEY, value=path, hint=hint)


def _one_format(names: list[str], notes: list[str]) -> list[str]:
    """``names``, or those of the one format of which a file is named after a split."""
    kinds: dict[str, list[str]] = {}
    for name in names:
        kinds.setdefault(_KINDS[Path(name).suffix.lower()], []).append(name)
    if len(kinds) == 1:
        return names
    after = [kind for kind, files in kinds.items() if any(_role(name) == "train" for name in files)]
    if len(after) != 1:
        listed = "; ".join(f"{kind}: {', '.join(files[:3])}" for kind, files in kinds.items())
        problem = f"files are of several formats ({listed})"
        raise UserError(problem, key=KEY, hint="name the files of one of them")
    left = [name for kind, files in kinds.items() if kind != after[0] for name in files]
    notes.append(f"not used, as they are of another format: {', '.join(left)}")
    return kinds[after[0]]


def _role(name: str) -> str:
    """The split that a file's name tells; nothing if none."""
    words = re.split(r"[^a-z]+", Path(name).stem.lower())
    known: Mapping[str, set[str]] = _SPLITS
    return next((role for role, names in known.items() if names & {*words}), "")
