"""Where a path of the configuration leads: the hub, a local folder, an earlier run, or the package itself."""

from __future__ import annotations

from pathlib import Path

from distill.errors import UserError, nearest

__all__ = ["PACKAGE_PREFIX", "RECIPES", "RUNS", "find_local", "resolve"]

PACKAGE_PREFIX = "distill:"
"""``distill:quickstart/teacher`` is the folder ``configs/quickstart/teacher`` shipped in the package."""

RUNS = ("[!.]*/config.yaml", "[!.]*/[!.]*/config.yaml")
"""Where runs lie below a folder: what begins with a dot is half made."""

RECIPES = Path(__file__).parent / "configs"


def find_local(path: str, folder: str | Path = "") -> Path | None:
    """The file or folder that ``path`` names, looked for from ``folder``; ``None`` where it leads elsewhere."""
    found = Path(folder, Path(path).expanduser())
    return found if path and not path.startswith(PACKAGE_PREFIX) and found.exists() else None


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
            raise UserError("the package ships no such folder", key=key, value=path, mend=nearest(path, known))
        return str(shipped)
    local = find_local(path)
    if local is None:
        above = Path(path).expanduser().parent
        of_runs = "/" in path and any(
            next(above.glob(runs), None) for runs in ("[!.]*/config.yaml", "[!.]*/[!.]*/config.yaml")
        )
        if of_runs or Path(path).expanduser().is_absolute() or path.startswith((".", "~")) or path.count("/") > 1:
            raise UserError("no such folder", key=key, value=path, mend="check the path, or give a hub id")
        return path
    if (local / "config.yaml").exists():
        if not (local / "student").is_dir():
            raise UserError(
                "this run has saved no student yet", key=key, value=path, mend="let it finish, or name another model"
            )
        return str(local / "student")
    runs = sorted(
        str(folder.parent) for folder in local.glob("[!.]*/student") if (folder.parent / "config.yaml").is_file()
    )
    if runs and not (local / "config.json").exists():
        raise UserError("holds runs", key=key, value=path, mend=f"name one of them: {', '.join(runs[-5:])}")
    return str(local)
