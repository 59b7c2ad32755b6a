"""``distill prune``."""

from __future__ import annotations

from argparse import Namespace

from distill.cli.command import argument, of_run
from distill.cli.needs import Need, refuse_idle_options
from distill.cli.parser import Overrides
from distill.core.utils.errors import UserError

__all__ = ["PRUNE"]

_CALIBRATE = 128

_NEEDS = (
    Need("calibrate", lambda options: options.method != "magnitude", "--method {method}", "take wanda or sparsegpt"),
    Need("damping", lambda options: options.method == "sparsegpt", "--method {method}", "take sparsegpt"),
)


def _prune(options: Namespace, overrides: Overrides) -> None:
    from distill.compression.pruning.at_once import OneShot
    from distill.workflows.prune import prune_run

    refuse_idle_options(options, _NEEDS)
    if options.sparsity == 0:
        hint = "give a part above 0, such as 0.5, or leave it out"
        raise UserError("prunes nothing", key="--sparsity", value=options.sparsity, hint=hint)
    given = {} if options.damping is None else {"damping": options.damping}
    try:
        how = OneShot(options.method, options.sparsity, options.granularity, **given)
    except UserError as error:
        raise UserError(error.problem, key=f"--{error.key}", value=error.value, hint=error.hint) from error
    prune_run(
        options.run,
        how,
        calibrate=_CALIBRATE if options.calibrate is None else options.calibrate,
        run_id=options.id,
        overrides=overrides,
        allow=options.allow,
    )


PRUNE = of_run(
    "Prune the student of a run without training it, into a run of its own, from which it can be trained on.",
    _prune,
    argument(
        "--method",
        choices=("sparsegpt", "wanda", "magnitude"),
        default="sparsegpt",
        help="what goes, and whether the others make up for it (%(default)s does)",
    ),
    argument("--sparsity", type=float, metavar="PART", help="of each layer (0.5)"),
    argument("--granularity", default="unstructured", metavar="N:M", help="n of m neighbours stay, such as 2:4"),
    argument("--calibrate", type=int, metavar="N", help=f"training samples that layers read ({_CALIBRATE})"),
    argument("--damping", type=float, metavar="PART", help="of sparsegpt: added to the Hessian's diagonal (0.01)"),
    argument("--id", help="the new run's id, a new one if not given"),
)
