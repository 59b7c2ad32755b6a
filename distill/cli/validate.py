"""``distill validate`` and ``distill test``."""

from __future__ import annotations

from argparse import Namespace
from typing import Literal

from distill.cli.command import BESIDE, Command, of_run
from distill.cli.parser import Overrides

__all__ = ["TEST", "VALIDATE"]


def _evaluation(stage: Literal["validate", "test"], split: str) -> Command:
    """The command that scores a student on the data of ``split``."""

    def run(options: Namespace, overrides: Overrides) -> None:
        from distill.workflows.evaluate import evaluate

        evaluate(options.run, stage, overrides=overrides, allow=options.allow, beside=options.beside)

    return of_run(f"Score the student that a run saved, on its {split} data.", run, BESIDE, split=split)


VALIDATE = _evaluation("validate", "validation")
TEST = _evaluation("test", "test")
