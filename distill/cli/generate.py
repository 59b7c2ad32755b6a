"""``distill generate``."""

from __future__ import annotations

from argparse import Namespace

from distill.cli.command import Command, argument
from distill.cli.needs import Need, refuse_idle_options
from distill.cli.parser import Overrides
from distill.core.utils.errors import UserError

__all__ = ["GENERATE"]

_EPILOG = """\
The prompts are the column prompt, or text, of FILE. A student then learns from what comes out, as from any such data:
  distill generate my-chat-model prompts.jsonl --to answers.jsonl
  distill fit -c causal-lm/chat --data.files '{train: answers.jsonl}' --data.validation_fraction 0.1
After a kill, the same command resumes.
"""


_NEEDS = (
    Need("seed", lambda options: options.temperature is not None, "the most likely tokens", "give --temperature too"),
)


def _generate(options: Namespace, overrides: Overrides) -> None:
    from distill.workflows.generate import Writing, generate

    for key, value, hint in (
        ("MODEL", options.model, "name the folder of a run, or of a language model"),
        ("FILE", options.file, "name a file of prompts"),
        ("--to", options.to, "name the file to write, NAME.jsonl"),
    ):
        if not value:
            raise UserError("must be given", key=key, hint=hint)
    refuse_idle_options(options, _NEEDS)
    seed = 0 if options.seed is None else options.seed
    writing = Writing(
        options.max_new_tokens, options.beams, options.temperature, options.batch_size, seed, options.keep_unfinished
    )
    generate(options.model, options.file, options.to, writing, overrides)


GENERATE = Command(
    description="Have a language model answer prompts, and write a data set of prompts and completions to learn from.",
    arguments=(
        argument("model", metavar="MODEL", nargs="?", help="the folder of a run, or of a model of transformers"),
        argument("file", metavar="FILE", nargs="?", help="csv, tsv, json, jsonl, parquet, or txt with a prompt a line"),
        argument("--to", metavar="FILE", help="the file to write, NAME.jsonl"),
        argument("--max-new-tokens", type=int, default=256, metavar="N", help="most tokens of an answer (%(default)s)"),
        argument(
            "--temperature", type=float, metavar="T", help="draw from the softmax at T; the most likely if not given"
        ),
        argument("--beams", type=int, default=1, metavar="N", help="texts tried for the likeliest (%(default)s)"),
        argument("--batch-size", type=int, default=16, metavar="N", help="prompts answered at once (%(default)s)"),
        argument("--seed", type=int, help="of what is drawn (0)"),
        argument(
            "--keep-unfinished",
            action="store_true",
            help="keep answers that come to no end in so many tokens; a student would learn to end there",
        ),
    ),
    run=_generate,
    example="MODEL FILE --to FILE",
    epilog=_EPILOG,
)
