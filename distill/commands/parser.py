"""Arguments of a command: options of its own, and keys of the configuration among them."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from difflib import get_close_matches
from typing import NoReturn

from distill.errors import UserError

__all__ = ["Overrides", "Parser"]

Overrides = list[tuple[str, str]]
"""Dotted keys of a configuration, each with the text that is given for it."""


class Parser(argparse.ArgumentParser):
    """Reports mistakes as every other mistake of the user is reported.

    Args:
        prog: The command, as it is typed.
        description: What it does.
    """

    def __init__(self, prog: str, description: str) -> None:
        super().__init__(
            prog=prog,
            description=description,
            allow_abbrev=False,
            add_help=False,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        self.add_argument("-h", "--help", action="store_true", help="show this and exit")

    def error(self, message: str) -> NoReturn:
        raise UserError(message, mend=f"see {self.prog} --help")

    def _check_option(self, token: str, known: Iterable[str]) -> None:
        """Refuse what was meant for an option of the command, and is no key of a configuration."""
        from distill.config import SECTIONS

        name = token.removeprefix("--")
        close = get_close_matches(token, known, n=1, cutoff=0.8)
        if close and "." not in name and not get_close_matches(name, SECTIONS, n=1, cutoff=0.8):
            raise UserError("no such option", key=token, mend=f"did you mean {close[0]!r}?")

    def split(self, argv: list[str]) -> tuple[argparse.Namespace, Overrides]:
        """The options that are known, and every other ``--key value`` as an override.

        Args:
            argv: The arguments after the command's name.

        Raises:
            UserError: An argument is neither, or lacks its value.
        """
        from distill.config import split_override

        known = {option: action for action in self._actions for option in action.option_strings}
        mine: list[str] = []
        overrides: Overrides = []
        while argv:
            token, argv = argv[0], argv[1:]
            if token.startswith("--") and token.partition("=")[0] not in known:
                self._check_option(token.partition("=")[0], known)
                override, taken = split_override(token, argv)
                overrides.append(override)
                argv = argv[taken:]
                continue
            mine.append(token)
            if token in known and known[token].nargs != 0 and argv:
                mine.append(argv[0])
                argv = argv[1:]
        return self.parse_args(mine), overrides
