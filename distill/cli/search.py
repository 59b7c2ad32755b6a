"""``distill search``."""

from __future__ import annotations

from argparse import Namespace
from typing import Any

from distill.cli.command import ALLOW, Command, argument, config_files
from distill.cli.parser import Overrides
from distill.core.utils.errors import UserError
from distill.core.utils.extras import require

__all__ = ["SEARCH"]

_TRIALS = 24

_EPILOG = """\
A trial is the recipe with other values of its knobs: layers, heads, neurons, rank, sparsity and bits by groups of
layers, weights of losses, temperatures, as far as the recipe names them. What is searched is said first (--dry-run
says it alone). Each trial is trained for a short while, exported, and measured; the best go on with longer runs.
  distill search -c RECIPE --target 'accuracy >= 0.99 * teacher' --minimize bytes --trials 24
  distill search -c RECIPE --target 'accuracy >= 0.9' --minimize latency --knob layers=2,3 --knob heads=recipe

The same command, or --resume FOLDER, goes on where a search was stopped; with a higher --trials it goes further.
No trial that meets the target ends with exit code 3.
"""

_WISHES = ("target", "minimize", "rungs", "sampler", "seed", "to")


def _search(options: Namespace, overrides: Overrides) -> None:
    require("search", "distill search")
    given = {name: value for name in _WISHES if (value := getattr(options, name)) is not None}
    if options.knob:
        given["knobs"] = tuple(options.knob)
    trials = _TRIALS if options.trials is None else options.trials
    if options.resume:
        _resume(options, overrides, given)
        return
    if not options.config:
        raise UserError(
            "must be given", key="-c", hint="distill search -c RECIPE --target 'accuracy >= 0.99 * teacher'"
        )
    if "target" not in given:
        raise UserError("must be given", key="--target", hint="--target 'accuracy >= 0.99 * teacher'")
    from distill.workflows.search.plan import Asked
    from distill.workflows.search.run import search
    from distill.workflows.trials.recipe import Recipe

    recipe = Recipe(files=tuple(options.config), allow=tuple(options.allow), overrides=tuple(overrides))
    search(recipe, Asked(**given), trials, dry_run=options.dry_run)


def _resume(options: Namespace, overrides: Overrides, given: dict[str, Any]) -> None:
    others = [f"--{name.rstrip('s')}" for name in given] + ["-c"] * bool(options.config)
    others += ["--allow"] * bool(options.allow) + [f"--{key}" for key, _ in overrides]
    if others:
        problem, hint = "is settled by the search that is resumed", "leave it out; --trials alone may be another"
        raise UserError(problem, key=others[0], hint=hint)
    from distill.workflows.search.run import resume

    resume(options.resume, options.trials, dry_run=options.dry_run)


SEARCH = Command(
    "Search for the smallest or fastest student that still meets a target: trials by optuna, short runs of all,\n"
    "longer ones of the best, and a configuration for every point on the front. Needs the search and export extras.",
    (
        config_files("the recipe, as for distill fit"),
        argument("--target", metavar="RULE", help="what a student must reach, such as 'accuracy >= 0.99 * teacher'"),
        argument("--minimize", choices=("bytes", "latency", "gzipped_bytes"), help="of its export (bytes)"),
        argument("--trials", type=int, metavar="N", help=f"how many in all ({_TRIALS})"),
        argument(
            "--knob",
            action="append",
            default=[],
            metavar="NAME=VALUES",
            help="what a knob may be: layers=2,3, temperature=1..8, heads=0.5; heads=recipe leaves it; "
            "a key of the configuration makes one: model.optimizer.lr=1e-4..1e-3",
        ),
        argument("--rungs", metavar="SHARES", help="of the recipe's length, rising to 1 (0.11,0.33,1)"),
        argument("--sampler", choices=("tpe", "random"), help="how values are drawn (tpe)"),
        argument("--seed", type=int, metavar="N", help="of the search; a run's own stands in its recipe (0)"),
        argument("--to", metavar="FORMAT", help="what is measured; onnx-int8 of quantized students, else onnx"),
        argument("--resume", metavar="FOLDER", help="go on with the search in this folder"),
        argument("--dry-run", action="store_true", help="say what would be searched, write nothing"),
        ALLOW,
    ),
    _search,
    epilog=_EPILOG,
)
