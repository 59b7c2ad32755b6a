"""The arguments of ``distill fit`` that all trials have in common. Light: needs nothing but YAML."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from distill.config.files import parse_value, split_override
from distill.core.utils.errors import UserError
from distill.core.utils.secrets import scrub, scrub_override

__all__ = ["Recipe", "parse_recipe"]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What every trial has in common: the arguments of ``distill fit``.

    Attributes:
        files: After ``-c`` each.
        allow: After ``--allow`` each.
        overrides: Keys with their YAML texts.
    """

    files: tuple[str, ...] = ()
    allow: tuple[str, ...] = ()
    overrides: tuple[tuple[str, str], ...] = ()

    def words(self) -> list[str]:
        """The arguments as they are typed."""
        given = [("-c", file) for file in self.files] + [("--allow", package) for package in self.allow]
        return [word for pair in given for word in pair] + [f"--{key}={text}" for key, text in self.overrides]

    def recorded(self) -> dict[str, Any]:
        """What is written of it beside the runs: no secret, those inside a list or a mapping included."""
        common: dict[str, Any] = scrub({"files": list(self.files), "allow": list(self.allow)})
        return common | {"overrides": {key: _recorded(key, text) for key, text in self.overrides}}


def _recorded(key: str, text: str) -> str:
    value = parse_value(text, f"--{key}")
    if isinstance(value, (dict, list)):
        return json.dumps(scrub_override(key, value), default=str)
    return str(scrub_override(key, text))


def parse_recipe(words: Sequence[str]) -> Recipe:
    """The arguments of ``distill fit`` that a sweep may fix.

    Raises:
        UserError: if they are others.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("-c", "--config", action="append", default=[])
    parser.add_argument("--allow", action="append", default=[])
    try:
        known, rest = parser.parse_known_args(words)
    except argparse.ArgumentError as error:
        raise UserError(str(error), key="command", hint="see distill fit --help") from None
    overrides = []
    while rest:
        token, rest = rest[0], rest[1:]
        if not token.startswith("--") or token.partition("=")[0] in ("--id", "--resume", "--dry-run"):
            raise UserError("cannot be given in a sweep", key="command", value=token, hint="leave it out")
        override, taken = split_override(token, rest)
        overrides.append(override)
        rest = rest[taken:]
    return Recipe(files=tuple(known.config), allow=tuple(known.allow), overrides=tuple(overrides))
