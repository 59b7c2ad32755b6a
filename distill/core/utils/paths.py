"""Where a path of the configuration leads: the hub, a local folder, an earlier run, or the package itself."""

from __future__ import annotations

import os
from pathlib import Path

from distill.core.utils.errors import UserError, nearest
from distill.core.utils.hub import settle

__all__ = [
    "PACKAGE_PREFIX",
    "RECIPES",
    "RUNS",
    "at_home",
    "can_be",
    "check_folder",
    "check_path",
    "find_local",
    "resolve",
]

PACKAGE_PREFIX = "distill:"
"""``distill:quickstart/teacher`` is the folder ``configs/quickstart/teacher`` shipped in the package."""

RUNS = ("[!.]*/config.yaml", "[!.]*/[!.]*/config.yaml")
"""Where runs lie below a folder: what begins with a dot is half made."""

RECIPES = Path(__file__).parents[2] / "recipes"


def at_home(path: str | Path) -> Path:
    """``path`` with the home that its ``~`` or ``~user`` stands for; as it is where there is no such user."""
    return Path(os.path.expanduser(path))  # which, unlike Path.expanduser, does not raise then


def can_be(path: str | Path) -> bool:
    """Whether a file system could hold ``path``: asking for one that it could not raises ``OSError``."""
    parts = map(os.fsencode, Path(path).parts)
    return "\0" not in str(path) and len(os.fsencode(path)) < 4096 and all(len(part) <= 255 for part in parts)


def check_path(path: str | Path, key: str) -> None:
    """Refuse what cannot be the path of anything.

    Raises:
        UserError: naming ``key``.
    """
    if not can_be(path):
        raise UserError("is too long for a path", key=key, value=str(path), hint="give a shorter one")


def check_folder(path: str | Path, key: str) -> None:
    """Refuse a folder that cannot be written to, before there is anything to write.

    Raises:
        UserError: naming ``key``.
    """
    check_path(path, key)
    folder = at_home(path)
    if os.path.expanduser(path).startswith("~"):
        raise UserError("there is no such user", key=key, value=str(path), hint="write the path in full")
    if folder.is_file():
        raise UserError("is a file, not a folder", key=key, value=str(path), hint="name another folder")
    above = next((p for p in (folder, *folder.parents) if p.exists()), Path())
    if not above.is_dir() or not os.access(above, os.W_OK):
        raise UserError("cannot be written to", key=key, value=str(path), hint="name another folder")


def find_local(path: str, folder: str | Path = "") -> Path | None:
    """The file or folder that ``path`` names, looked for from ``folder``; ``None`` where it leads elsewhere."""
    found = Path(folder, at_home(path))
    return found if path and not path.startswith(PACKAGE_PREFIX) and can_be(found) and found.exists() else None


def resolve(path: str, key: str) -> str:
    """What to hand to ``from_pretrained`` or ``load_dataset`` for ``path``.

    * ``distill:NAME`` is a folder shipped with the package;
    * an earlier run's folder stands for the student that it saved;
    * a local folder is itself, and anything else is taken for a hub id.

    Raises:
        UserError: if ``path`` is meant to be local and does not exist, or holds runs of which none is named.
    """
    if path.startswith(PACKAGE_PREFIX):
        shipped = RECIPES / path.removeprefix(PACKAGE_PREFIX)
        if not shipped.exists():
            known = (PACKAGE_PREFIX + str(p.parent.relative_to(RECIPES)) for p in RECIPES.glob("*/*/*.json"))
            raise UserError("the package ships no such folder", key=key, value=path, hint=nearest(path, known))
        return str(shipped)
    check_path(path, key)
    local = find_local(path)
    if local is None and path.startswith("runs/") and path.endswith("/ID"):  # as the recipes write it
        raise UserError("stands for a run of yours", key=key, value=path, hint=f"name it: --{key} runs/NAME/ID")
    if local is None:
        above = at_home(path).parent
        of_runs = "/" in path and any(
            next(above.glob(runs), None) for runs in ("[!.]*/config.yaml", "[!.]*/[!.]*/config.yaml")
        )
        if of_runs or at_home(path).is_absolute() or path.startswith((".", "~")) or path.count("/") > 1:
            raise UserError("no such folder", key=key, value=path, hint="check the path, or give a hub id")
        settle()
        return path
    if (local / "config.yaml").exists():
        if not (local / "student").is_dir():
            raise UserError(
                "this run has saved no student yet", key=key, value=path, hint="let it finish, or name another model"
            )
        return str(local / "student")
    runs = sorted(
        str(folder.parent) for folder in local.glob("[!.]*/student") if (folder.parent / "config.yaml").is_file()
    )
    if runs and not (local / "config.json").exists():
        raise UserError("holds runs", key=key, value=path, hint=f"name one of them: {', '.join(runs[-5:])}")
    return str(local)
