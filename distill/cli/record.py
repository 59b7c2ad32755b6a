"""``distill record``."""

from __future__ import annotations

from argparse import Namespace

from distill.cli.command import ALLOW, Command, argument, config_files
from distill.cli.parser import Overrides
from distill.core.utils.errors import UserError

__all__ = ["RECORD"]

_EPILOG = """\
A run then reads it instead of running the teacher. After a kill, the same command resumes.
  distill record -c RECIPE --to recorded/NAME --as hidden --dtype int8
  distill fit -c RECIPE --model.teacher.recorded recorded/NAME
"""


def _record(options: Namespace, overrides: Overrides) -> None:
    from distill.config.files import load
    from distill.workflows.record import Form, record

    for key, value, hint in (
        ("-c", options.config, "name the recipe of the run that is to learn from it"),
        ("--to", options.to, "name a folder"),
        ("--as", options.kind, "name a kind: hidden for language models, logits for classifiers"),
    ):
        if not value:
            raise UserError("must be given", key=key, hint=hint)
    form = Form(options.kind, options.dtype, options.k, options.draws)
    record(load(options.config, overrides), options.to, form, part=options.part, allow=options.allow)


RECORD = Command(
    description="Run a recipe's teacher over its training data once, and keep what it says.",
    arguments=(
        config_files("may be given repeatedly, as for distill fit"),
        argument("--to", metavar="FOLDER", help="folder to write to; a recording that is not complete is gone on with"),
        argument(
            "--as",
            dest="kind",
            choices=("hidden", "topk", "sampled", "logits"),
            help="hidden: what a language model's head reads, of which all logits are computed again; topk: its most "
            "likely tokens; sampled: tokens drawn from it; logits: all of them, for one prediction a sample",
        ),
        argument(
            "--dtype",
            choices=("float32", "bf16", "int8"),
            help="of what is kept: bf16 for hidden, float32 for logits, if not given; int8 is for hidden",
        ),
        argument("--k", type=int, help="tokens of topk (50)"),
        argument("--draws", type=int, help="tokens of sampled (12)"),
        argument("--part", default="1/1", metavar="I/N", help="record the I-th of N parts; one process each"),
        ALLOW,
    ),
    run=_record,
    epilog=_EPILOG,
)
