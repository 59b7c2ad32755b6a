"""Arguments of a command: options of its own, and keys of the configuration among them."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Any

from distill.core.utils.errors import UserError, nearest

__all__ = ["Overrides", "Parser", "checked_value"]

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
            exit_on_error=False,
            allow_abbrev=False,
            add_help=False,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        self.add_argument("-h", "--help", action="store_true", help="show this and exit")

    def add(self, names: tuple[str, ...], settings: Mapping[str, Any]) -> None:
        """Take an argument as ``add_argument`` does, but what it must be is left to :func:`checked_value`."""
        plain = {name: value for name, value in settings.items() if name not in ("type", "choices")}
        if "choices" in settings:
            plain["metavar"] = "{" + ",".join(settings["choices"]) + "}"
        if names[0].startswith("-"):
            plain.setdefault("action", _Once)
        self.add_argument(*names, **plain)

    def read(self, argv: list[str]) -> argparse.Namespace:
        """The arguments, each as its text.

        Raises:
            UserError: One lacks its value, has one that it does not take, or is none.
        """
        try:
            options, rest = self.parse_known_args(argv)
        except argparse.ArgumentError as error:
            key = str(error.argument_name).split("/")[-1]
            if self._option_string_actions[key].nargs == 0:
                raise UserError("takes no value", key=key, hint=f"write {key} alone, or leave it out") from None
            raise UserError("needs a value", key=key, hint=f"see {self.prog} --help") from None
        if rest:
            from distill.config.known_keys import instead

            stray, hint = rest[0], f"see {self.prog} --help"
            if "-c" in self._option_string_actions and not stray.startswith("-"):
                hint = f"write -c {stray} for a recipe, and --key value for anything else"
            elif (known := instead(stray.lstrip("-"), *rest[1:2])) and "-c" in self._option_string_actions:
                hint = known
            raise UserError("belongs to no option and no key", key=self.prog, value=stray, hint=hint)
        return options

    def _check_option(self, token: str, known: Iterable[str]) -> None:
        """Refuse what was meant for an option of the command, and is no key of a configuration."""
        from distill.config.files import SECTIONS

        name = token.removeprefix("--")
        close = get_close_matches(token, known, n=1, cutoff=0.8)
        if close and "." not in name and not get_close_matches(name, SECTIONS, n=1, cutoff=0.8):
            raise UserError("no such option", key=token, hint=f"did you mean {close[0]!r}?")

    def split(self, argv: list[str]) -> tuple[argparse.Namespace, Overrides]:
        """The options that are known, and every other ``--key value`` as an override.

        Args:
            argv: The arguments after the command's name.

        Raises:
            UserError: An argument is neither, or lacks its value.
        """
        from distill.config.files import split_override

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
        return self.read(mine), overrides


class _Once(argparse.Action):
    """Keeps a value, and refuses another one beside it: one of the two would have no effect."""

    def __call__(
        self, parser: Any, namespace: argparse.Namespace, values: Any, option_string: str | None = None
    ) -> None:
        before = vars(namespace).setdefault("given", {}).setdefault(self.dest, values)
        if before != values:
            key = self.option_strings[-1]
            raise UserError(f"is given twice, and was {before!r} before", key=key, value=values, hint="leave one out")
        setattr(namespace, self.dest, values)


def checked_value(key: str, value: Any, settings: Mapping[str, Any]) -> Any:
    """The value of an argument, as what it must be: one of its choices, or a number.

    Args:
        key: How it is typed.
        value: Its text; a default is passed on.
        settings: Of the argument: ``choices``, or as ``type`` ``int`` or ``float``.

    Raises:
        UserError: It is something else.
    """
    choices, kind = settings.get("choices"), settings.get("type")
    if not isinstance(value, str):
        return value
    if choices and value not in choices:
        raise UserError(f"must be {_listed(choices)}", key=key, value=value, hint=nearest(value, choices))
    if kind is None:
        return value
    try:
        # Python takes digits of every script, and underscores between them.
        return kind(value if re.fullmatch(r"[\w.+-]+", value, re.ASCII) and "_" not in value else None)
    except (TypeError, ValueError):
        problem = "must be an integer" if kind is int else "must be a number"
        raise UserError(problem, key=key, value=value, hint=f"give {_example(value, settings)}") from None


def _example(value: str, settings: Mapping[str, Any]) -> str:
    """A number in place of a text that is none."""
    kind, default = settings["type"], settings.get("default")
    if kind is float and re.fullmatch(r"\d+(\.\d+)?%", value, re.ASCII):
        return f"{float(value[:-1]) / 100:g}"
    usual = (8 if kind is int else 0.5) if default is None else default
    return f"one, such as {usual}"


def _listed(choices: Iterable[str]) -> str:
    *others, last = choices
    return f"{', '.join(others)} or {last}" if others else last
