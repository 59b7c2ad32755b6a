"""A folder that appears complete or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from distill.core.utils.errors import UserError
from distill.core.utils.files import sync
from distill.core.utils.half_made import begin, clear
from distill.core.utils.paths import at_home, check_folder

__all__ = ["Taken", "check_output", "make_folder", "replacing"]


class Taken(Exception):
    """Another process has made the folder in the meantime."""


def check_output(output: str | Path | None) -> Path | None:
    """The folder that ``output`` names, if it names one.

    What cannot be written to is refused, and a text without anything in it, as of a variable that is not set.

    Raises:
        UserError: naming the option.
    """
    if output is not None and not str(output).strip():
        raise UserError("must name a folder", key="--output", value=str(output), hint="name one, or leave it out")
    if output is None:
        return None
    check_folder(output, "--output")
    return at_home(output)


@contextmanager
def replacing(target: str | Path, key: str, *, alike: bool = False) -> Iterator[Path]:
    """A new folder that takes ``target``'s place when the block ends well; otherwise nothing of it stays.

    A kill at any time leaves either the old folder, the new one, or none; never a mixture of both. What it leaves
    beside them is in nobody's way, and the next one that is made there removes it (:func:`half_made.clear`).

    Args:
        target: A folder, which need not exist.
        key: Where the user named it.
        alike: Whether all beside it are made so, each by a name of its own: what any of them has left is removed, and
            no other is replaced.

    Raises:
        UserError: if nothing can be written there.
        Taken: if it is ``alike``, and another process has made it.
    """
    place = Path(target).resolve()
    if Path.cwd().is_relative_to(place):
        raise UserError("the current folder cannot be replaced", key=key, value=str(target), hint="name another folder")
    clear(place, alike=alike)
    above = [folder for folder in place.parents if not folder.exists()]
    try:
        fresh, held = begin(place)
    except OSError as error:
        _remove_empty(above)
        raise _unwritable(error, target, key) from error
    old = fresh.with_suffix(".old")
    try:
        yield fresh
        _sync(fresh)
        if alike:
            _take(fresh, place)
        else:
            _swap(fresh, place, old)
        sync(place.parent)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
        if place.exists():
            shutil.rmtree(old, ignore_errors=True)
        else:
            _remove_empty(above)
        os.close(held)


def _remove_empty(folders: Iterable[Path]) -> None:
    with suppress(OSError):  # what else is in one of them stays
        for folder in folders:
            folder.rmdir()


def make_folder(target: Path, key: str) -> None:
    """Make a folder, if it is not there.

    Raises:
        UserError: if it cannot be made.
    """
    try:
        target.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unwritable(error, target, key) from error


def _unwritable(error: OSError, target: str | Path, key: str) -> UserError:
    problem = f"cannot be written to ({error.strerror})"
    return UserError(problem, key=key, value=str(target), hint="name another folder")


def _sync(folder: Path) -> None:
    """Have the files on the disk before any name leads to them."""
    for path in [*(p for p in folder.rglob("*") if p.is_file()), folder]:
        sync(path)


def _take(fresh: Path, target: Path) -> None:
    try:
        fresh.rename(target)
    except OSError as error:  # which one it is differs: there is a file, or something in the folder
        if os.path.lexists(target):
            raise Taken from error
        raise


def _swap(fresh: Path, target: Path, old: Path) -> None:
    # A folder that is not empty cannot be replaced in one move.
    if target.exists():
        target.rename(old)
    try:
        fresh.rename(target)
    except OSError:
        if old.exists():
            old.rename(target)
        raise
