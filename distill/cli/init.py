"""``distill init``."""

from __future__ import annotations

from argparse import Namespace

from distill.cli.command import Command, argument
from distill.cli.parser import Overrides

__all__ = ["INIT"]

_EPILOG = """\
What it takes for what stands in the file as a comment beside the key that says otherwise. Files are told apart by their
names: train, validation (dev, valid, val, eval), test. What the data cannot tell may be given, and is written too:
  %(prog)s reviews.csv --data.columns.label stars --data.reader.sep ';' --data.labels '[bad, good]'
"""


def _init(options: Namespace, overrides: Overrides) -> None:
    from distill.workflows.init.run import init

    init(
        options.data,
        task=options.task,
        output=options.output,
        force=options.force,
        tokenizer=options.tokenizer,
        model=options.model,
        overrides=overrides,
    )


INIT = Command(
    description="Look at your data, and write a YAML file to train on it with a recipe; say what was chosen and why.",
    arguments=(
        argument("data", metavar="DATA", nargs="*", help="a folder, or csv, tsv, json, jsonl, parquet or txt files"),
        argument("--task", help="what to train for; found by the columns if not given"),
        argument("--output", default="my.yaml", metavar="FILE", help="what to write (%(default)s)"),
        argument("--force", action="store_true", help="replace the file if it is there"),
        argument("--tokenizer", metavar="FOLDER", help="count tokens with this one, a folder or hub id"),
        argument("--model", metavar="FOLDER", help="of what is to be trained, or hub id: named in the command shown"),
    ),
    run=_init,
    epilog=_EPILOG,
)
