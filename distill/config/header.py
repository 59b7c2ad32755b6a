"""The first line of a run's ``config.yaml``: what wrote it, and how the run is repeated or was made."""

from __future__ import annotations

from pathlib import Path

from distill.core.utils.errors import UserError
from distill.core.utils.files import read

__all__ = ["MADE_BY", "REPEAT", "first_line", "refuse_old"]

REPEAT = "# distill 0.2; repeat this run: "
MADE_BY = "# distill 0.2; made by: "

_OLD = ("# Repeat this run: ", "# Made by: ")
"""What 0.1 wrote there."""


def first_line(file: Path) -> str:
    """The first line of a file; none where it cannot be read, which is told where it is needed."""
    try:
        return read(file).decode(errors="replace").partition("\n")[0]
    except OSError:
        return ""


def refuse_old(file: Path, key: str) -> None:
    """Refuse the ``config.yaml`` of a run of 0.1: its classes have other names now.

    Args:
        file: The configuration of a run.
        key: Where the user named the run.

    Raises:
        UserError: saying so.
    """
    if first_line(file).startswith(_OLD):
        problem = "is a run of distill 0.1, which later versions neither read nor resume"
        raise UserError(problem, key=key, value=str(file.parent), hint="begin another run")
