"""What a run writes lies in its own folder: links and paths that lead out of it are refused before anything is written.

A folder, as a configuration, is often somebody else's.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from distill.core.utils.errors import UserError
from distill.core.utils.paths import at_home

__all__ = ["is_path_key", "refuse_inside", "refuse_links", "refuse_paths", "without_paths"]

_PATH_KEY = re.compile(
    r"(?:.*_)?(?:dir|directory|path|file|root|folder)s?(?:_.*)?|.*(?:dirpath|filepath|filename|logdir|savedir)s?"
)


def refuse_links(folder: Path) -> None:
    """Refuse a run's ``folder`` in which a link leads out of it. The folder itself may be reached through one.

    Those that W&B leaves beside its logs are its own, and lead to its cache: it makes a folder for each of its runs
    and writes through none of them.

    Raises:
        UserError: naming the link.
    """
    own = folder.resolve()
    for link in _links(own):
        leads_to = Path(os.path.realpath(link))
        if not leads_to.is_relative_to(own) and link.parent.parent.parent != own / "wandb":
            problem = f"leads out of the run's folder, to {leads_to}, and nothing is written there"
            hint = "put what it leads to in its place, or remove it"
            raise UserError(problem, key=str(link.relative_to(own)), value=str(link), hint=hint)


def _links(folder: Path) -> Iterator[Path]:
    """The links below ``folder``, of which none is followed."""
    waiting = [folder]
    while waiting:
        try:
            entries = list(os.scandir(waiting.pop()))
        except OSError:  # what is not ours to read, we cannot write to either
            continue
        for entry in entries:
            if entry.is_symlink():
                yield Path(entry.path)
            elif entry.is_dir(follow_symlinks=False):
                waiting.append(Path(entry.path))


def refuse_paths(config: Mapping[str, Any], folder: Path, allowed: Sequence[str] = ()) -> None:
    """Refuse a configuration whose trainer or callbacks are given a place to write to outside of the run.

    Args:
        config: Complete.
        folder: The run's.
        allowed: Packages of the user's own, which write where they like.

    Raises:
        UserError: naming the key.
    """
    for section in ("trainer", "callbacks"):
        for key, name, value in _paths(config.get(section), section, allowed):
            if not _inside(value, name, folder):
                problem = "leads out of the run's folder, in which all lies that a run writes"
                raise UserError(problem, key=key, value=value, hint="leave it out")


def is_path_key(name: str) -> bool:
    """Whether an argument of this name takes a path."""
    return name != "class_path" and _PATH_KEY.fullmatch(name) is not None


def without_paths(state: Any, folder: Path) -> Any:
    """What a checkpoint holds of a callback, without the places outside of the run that it may be told to write to.

    The state of a ``ModelCheckpoint`` names its files in a way of its own (``callbacks/best_checkpoint.py``).
    """
    if not isinstance(state, dict) or "dirpath" in state:
        return state
    outside = {name for _, name, value in _paths(state, "", ()) if not _inside(value, name, folder)}
    return {name: None if name in outside else value for name, value in state.items()}


def _paths(value: Any, key: str, allowed: Sequence[str]) -> Iterator[tuple[str, str, str]]:
    """Every text that an argument for a path is given: its key, the argument's name, and the text."""
    if isinstance(value, Mapping):
        package = str(value.get("class_path", ""))
        if any(package == own or package.startswith(f"{own}.") for own in allowed):
            return
        for name, item in value.items():
            place = key if name in ("init_args", "dict_kwargs") else f"{key}.{name}"
            if isinstance(item, str) and is_path_key(str(name)):
                yield place, str(name), item
            yield from _paths(item, place, allowed)
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            if isinstance(item, str) and is_path_key(key.rpartition(".")[2]):
                yield f"{key}.{index}", key.rpartition(".")[2], item
            yield from _paths(item, f"{key}.{index}", allowed)


def _inside(path: str, name: str, folder: Path) -> bool:
    own = folder.resolve()
    # Lightning takes the name of a file to be of the run's folder, and all else of the working folder.
    place = (own if name == "filename" else Path.cwd()) / at_home(path)
    return Path(os.path.normpath(place)).is_relative_to(own) and place.resolve().is_relative_to(own)


def refuse_inside(run: Path, output: Path | None) -> None:
    """Refuse an ``--output`` among the run's own files; below ``exports`` and in ``sensitivity`` it may be.

    Args:
        run: The run's folder.
        output: What was given.

    Raises:
        UserError: if it lies there.
    """
    if output is None:
        return
    own, place = run.resolve(), output.resolve()
    if not place.is_relative_to(own):
        return
    first, *below = (*place.relative_to(own).parts, "")
    if first != "sensitivity" and (first != "exports" or below == [""]):
        problem, hint = "lies among the run's own files", "name a folder in its exports, or one elsewhere"
        raise UserError(problem, key="--output", value=str(output), hint=hint)
