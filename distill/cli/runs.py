"""``distill runs``."""

from __future__ import annotations

from argparse import Namespace

from distill.cli.command import Command, argument
from distill.cli.parser import Overrides
from distill.core.utils.errors import UserError

__all__ = ["RUNS"]


def _runs(options: Namespace, _: Overrides) -> None:
    if options.compare is None:
        from distill.run.listing import show_runs

        show_runs("runs" if options.folder is None else options.folder, as_json=options.json)
        return
    if options.folder is not None or options.json:
        raise UserError("stands alone", key="--compare", hint="distill runs --compare RUN RUN")
    from distill.run.compare import compare

    compare(options.compare)


RUNS = Command(
    description="Show the runs below a folder, oldest first, or compare some.",
    arguments=(
        argument("folder", metavar="FOLDER", nargs="?", help="of runs, or one run's own (runs)"),
        argument("--json", action="store_true", help="print a JSON list, for scripts"),
        argument("--compare", nargs="+", metavar="RUN", help="show where these differ, and their metrics"),
    ),
    run=_runs,
    overrides=False,
)
