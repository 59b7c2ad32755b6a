"""``distill sweep``."""

from __future__ import annotations

from argparse import Namespace

from distill.cli.command import ALLOW, Command, argument, config_files
from distill.cli.parser import Overrides

__all__ = ["SWEEP"]

_EPILOG = """\
FILE is a W&B sweep file (method grid or random; `wandb sweep FILE` and `wandb agent` take it too), or the name of a
shipped one: sweeps/sst2-hinton. Without -c the recipe is the one that its `command` names. Trials that have finished
are read, not repeated: the same command resumes where an interrupted one stopped.
  distill sweep sweeps/sst2-hinton --model.teacher runs/sst2-teacher/ID
"""


def _sweep(options: Namespace, overrides: Overrides) -> None:
    from distill.workflows.sweep.run import sweep
    from distill.workflows.trials.recipe import Recipe

    recipe = Recipe(files=tuple(options.config), allow=tuple(options.allow), overrides=tuple(overrides))
    sweep(options.file, recipe, seed=options.seed, dry_run=options.dry_run)


SWEEP = Command(
    description="Search over keys of a configuration: one run for each trial, and a table, best first.",
    arguments=(
        argument("file", metavar="FILE", nargs="?", help="what to try"),
        config_files("as for distill fit"),
        ALLOW,
        argument("--seed", type=int, metavar="N", help="of a random search; a run's own stands in its recipe (0)"),
        argument("--dry-run", action="store_true", help="list the trials, write nothing"),
    ),
    run=_sweep,
    example="FILE -c RECIPE",
    epilog=_EPILOG,
)
