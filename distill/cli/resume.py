"""``distill resume``."""

from __future__ import annotations

from argparse import Namespace

from distill.cli.command import ALLOW, RUN, RUN_EXAMPLE, Command, argument
from distill.cli.parser import Overrides

__all__ = ["RESUME"]


def _resume(options: Namespace, overrides: Overrides) -> None:
    from distill.workflows.resume import resume

    lengths = {"trainer.max_epochs": options.max_epochs, "trainer.max_steps": options.max_steps}
    longer = [(key, value) for key, value in lengths.items() if value is not None]
    resume(options.run, overrides=[*overrides, *longer], allow=options.allow)


RESUME = Command(
    description="Resume a run that was interrupted, as if it had not been, or extend one.",
    arguments=(
        RUN,
        argument("--max-epochs", metavar="N", help="extend the run to so many epochs"),
        argument("--max-steps", metavar="N", help="extend the run to so many steps"),
        ALLOW,
    ),
    run=_resume,
    example=RUN_EXAMPLE,
)
