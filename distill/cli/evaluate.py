"""``distill evaluate``."""

from __future__ import annotations

from argparse import Namespace

from distill.cli.command import ALLOW, BESIDE, Command, argument
from distill.cli.needs import Need, refuse_idle_options
from distill.cli.parser import Overrides
from distill.core.utils.errors import UserError

__all__ = ["EVALUATE"]

_EPILOG = """\
A run's student stands beside its teacher, and beside the run of the same student without a teacher, where there is
one. The scores are printed with their standard errors, and kept in the run's evaluations/.
  distill evaluate runs/NAME/ID --tasks hellaswag,arc_easy --limit 500
  distill evaluate my-model --tasks capitals.yaml --to capitals.json

A task file is as lm_eval reads it. The data_files in it are looked for in the current folder. Python that it names by
!function is run only if its module is allowed: --allow MODULE.
"""


_NEEDS = (Need("beside", lambda options: not options.student_only, "--student-only", "leave --student-only out"),)


def _evaluate(options: Namespace, overrides: Overrides) -> None:
    refuse_idle_options(options, _NEEDS)
    from distill.core.utils.extras import require

    require("evaluate", "distill evaluate")
    if not options.tasks:
        hint = "name tasks of lm_eval (hellaswag,arc_easy), a task file, or a folder of them"
        raise UserError("must be given", key="--tasks", hint=hint)

    from distill.workflows.benchmark.harness import Settings
    from distill.workflows.benchmark.run import evaluate

    settings = Settings(
        limit=options.limit,
        shots=options.num_fewshot,
        batch_size=options.batch_size,
        max_length=options.max_length,
        chat_template=options.chat_template,
        start_token=options.start_token,
    )
    evaluate(
        options.model,
        [name for given in options.tasks for name in given.split(",")],
        settings,
        allow=options.allow,
        beside=options.beside,
        alone=options.student_only,
        to=options.to,
    )


EVALUATE = Command(
    description="Score a language model on tasks of lm_eval, beside its teacher and the student without one.",
    arguments=(
        argument("model", metavar="MODEL", nargs="?", help="the folder of a run, or of a model of transformers"),
        argument(
            "--tasks",
            action="append",
            default=[],
            metavar="TASKS",
            help="names of lm_eval's tasks, with commas between them; a task file; or a folder of them",
        ),
        argument("--limit", type=int, metavar="N", help="take the first N rows of each task"),
        argument("--num-fewshot", type=int, metavar="N", help="examples before each question (the task's own number)"),
        argument("--batch-size", type=int, default=8, metavar="N", help="texts that are read at once (%(default)s)"),
        argument("--max-length", type=int, metavar="N", help="most tokens of a text (as many as the model reads)"),
        argument("--chat-template", action="store_true", help="put each question through the chat template"),
        argument(
            "--start-token", action="store_true", help="begin each text with the start token, as in training here"
        ),
        argument("--student-only", action="store_true", help="without the teacher and the run to compare with"),
        BESIDE,
        argument("--to", metavar="FILE", help="write the scores here too, NAME.json"),
        ALLOW,
    ),
    run=_evaluate,
    example="MODEL --tasks TASKS",
    epilog=_EPILOG,
    overrides=False,
)
