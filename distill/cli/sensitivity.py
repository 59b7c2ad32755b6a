"""``distill sensitivity``."""

from __future__ import annotations

from argparse import Namespace

from distill.cli.command import argument, of_run
from distill.cli.parser import Overrides

__all__ = ["SENSITIVITY"]


def _sensitivity(options: Namespace, overrides: Overrides) -> None:
    from distill.workflows.sensitivity import sensitivity

    sensitivity(
        options.run,
        samples=options.samples,
        sparsity=options.sparsity,
        bits=options.bits,
        output=options.output,
        overrides=overrides,
        allow=options.allow,
    )


SENSITIVITY = of_run(
    "Compress one layer of a run's student at a time, and show what becomes of its predictions. Writes a table, a\n"
    "plot, and a YAML whose overrides reach the targets at the least cost, to give to `distill fit -c`.",
    _sensitivity,
    argument("--samples", type=int, default=512, help="validation samples to look at (%(default)s)"),
    argument("--sparsity", type=float, default=0.8, help="mean sparsity that the YAML reaches (%(default)s)"),
    argument("--bits", type=float, default=6.0, help="mean bits a weight that the YAML reaches (%(default)s)"),
    argument("--output", help="folder to write to; sensitivity/ in the run's own if not given"),
)
