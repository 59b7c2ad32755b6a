"""``distill list``."""

from __future__ import annotations

from argparse import Namespace

from distill.cli.command import Command, argument
from distill.cli.parser import Overrides
from distill.core.utils.errors import UserError, nearest

__all__ = ["KINDS", "LIST"]

KINDS = ("losses", "schedules", "callbacks", "tasks", "targets", "recipes")


def _list(options: Namespace, _: Overrides) -> None:
    for kind in options.kinds:
        if kind not in KINDS:
            raise UserError("no such kind", key="KIND", value=kind, hint=nearest(kind, KINDS))
    from distill.workflows.job.reference import show

    show(options.kinds)


LIST = Command(
    description="Show what a configuration can name, each with its defaults.",
    arguments=(argument("kinds", metavar="KIND", nargs="*", help=", ".join(KINDS)),),
    run=_list,
    overrides=False,
)
