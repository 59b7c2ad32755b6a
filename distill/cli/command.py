"""What a command is: its words of help, its arguments, and what it does with them."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any, NamedTuple

from distill.cli.parser import Overrides, Parser, checked_value
from distill.core.utils.errors import UserError

__all__ = ["ALLOW", "BESIDE", "RUN", "RUN_EXAMPLE", "Argument", "Command", "argument", "config_files", "of_run"]

Argument = tuple[tuple[str, ...], dict[str, Any]]


def argument(*names: str, **settings: Any) -> Argument:
    """An argument of a command: what ``add_argument`` takes."""
    return names, settings


ALLOW = argument(
    "--allow",
    action="append",
    default=[],
    metavar="PACKAGE",
    help="classes of this package may be named by class_path; it is looked for in the current folder too",
)
BESIDE = argument(
    "--beside", metavar="RUN", help="show the scores of this one too: the same student, trained without a teacher"
)
RUN = argument("run", metavar="RUN", nargs="?", help="the run's folder, as `distill fit` named it")
RUN_EXAMPLE = "runs/NAME/ID"


def config_files(help_text: str) -> Argument:
    """The files of a configuration, in their order; ``help_text`` is its help."""
    return argument("-c", "--config", action="append", default=[], metavar="FILE", help=help_text)


class Command(NamedTuple):
    """A command of ``distill``.

    Args:
        description: What it does.
        arguments: What it takes, in the order of its help.
        run: Does it, with the options and the overrides that were given.
        example: What may follow its name, if its first argument must be given.
        epilog: Ends its help, or makes what ends it.
        overrides: Whether it takes ``--key value`` for keys of a configuration.
    """

    description: str
    arguments: tuple[Argument, ...]
    run: Callable[[argparse.Namespace, Overrides], None]
    example: str = ""
    epilog: str | Callable[[], str] = ""
    overrides: bool = True

    def main(self, name: str, argv: list[str]) -> None:
        """Do what the arguments say, or show the help if they ask for it.

        Args:
            name: What the command is called.
            argv: The arguments after its name.

        Raises:
            UserError: The arguments are wrong.
        """
        parser = Parser(f"distill {name}", self.description)
        for names, settings in self.arguments:
            parser.add(names, settings)
        options, overrides = parser.split(argv) if self.overrides else (parser.read(argv), [])
        if options.help:
            parser.epilog = self.epilog() if callable(self.epilog) else self.epilog
            print(parser.format_help())
            return
        for names, settings in self.arguments:
            dest = settings.get("dest", names[-1].lstrip("-").replace("-", "_"))
            value = getattr(options, dest)
            key = names[-1] if names[0].startswith("-") else settings["metavar"]
            if "" in (value if isinstance(value, list) else [value]):
                raise UserError("must not be empty", key=key, value="", hint="give a value, or leave it out")
            setattr(options, dest, checked_value(key, value, settings))
        (first, *_), settings = self.arguments[0]
        if self.example and getattr(options, first) is None:
            raise UserError("must be given", key=settings["metavar"], hint=f"{parser.prog} {self.example}")
        self.run(options, overrides)


def of_run(
    description: str,
    run: Callable[[argparse.Namespace, Overrides], None],
    *arguments: Argument,
    split: str = "validation",
) -> Command:
    """A command that takes a run, and whatever replaces a part of its configuration.

    Args:
        description: What it does.
        run: Does it.
        arguments: What it takes besides.
        split: The data that it reads.
    """
    epilog = (
        "--key value replaces a part of the run's configuration, as for distill fit:\n"
        f"  %(prog)s {RUN_EXAMPLE} --data.eval_batch_size 8 --data.splits.{split} SPLIT\n"
    )
    return Command(description, (RUN, *arguments, ALLOW), run, RUN_EXAMPLE, epilog)
