"""``distill record``."""

from __future__ import annotations

from argparse import Namespace

from distill.cli.command import ALLOW, Command, argument, config_files
from distill.cli.parser import Overrides
from distill.core.idle_settings import idle
from distill.core.utils.errors import UserError

__all__ = ["RECORD"]

_EPILOG = """\
A run then reads it instead of running the teacher. After a kill, the same command resumes.
  distill record -c RECIPE --to recorded/NAME --as hidden --dtype int8
  distill fit -c RECIPE --model.teacher.recorded recorded/NAME
A teacher that does not fit here is asked for its most likely tokens where it is served (vLLM and others):
  distill record -c RECIPE --to recorded/NAME --from-server http://HOST:8000/v1 --k 20
"""

_OF_SERVER = ("served_model", "api_key_env", "concurrency", "requests_per_minute")


def _record(options: Namespace, overrides: Overrides) -> None:
    from distill.config.files import load
    from distill.workflows.record import Form, Server, record

    if served := bool(options.from_server):
        options.kind = options.kind or "topk"
    for key, value, hint in (
        ("-c", options.config, "name the recipe of the run that is to learn from it"),
        ("--to", options.to, "name a folder"),
        ("--as", options.kind, "name a kind: hidden for language models, logits for classifiers"),
    ):
        if not value:
            raise UserError("must be given", key=key, hint=hint)
    for name in _OF_SERVER:
        if not served and (value := getattr(options, name)) is not None:
            raise idle(f"--{name.replace('_', '-')}", value, "a teacher that runs here", "give --from-server too")
    k = options.k or (20 if served and options.kind == "topk" else None)
    form = Form(options.kind, options.dtype, k, options.draws)
    origin = (
        Server(
            options.from_server,
            form,
            options.served_model,
            options.api_key_env,
            8 if options.concurrency is None else options.concurrency,
            options.requests_per_minute,
        )
        if served
        else None
    )
    record(load(options.config, overrides), options.to, form, origin, part=options.part, allow=options.allow)


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
        argument("--k", type=int, help="tokens of topk (50; of a server 20, the most that vLLM gives by default)"),
        argument("--draws", type=int, help="tokens of sampled (12)"),
        argument(
            "--part", metavar="I/N", help="record the I-th of N parts, one process each; torchrun gives each its own"
        ),
        argument(
            "--from-server", metavar="URL", help="ask an OpenAI-compatible server, instead of running the teacher"
        ),
        argument("--served-model", metavar="NAME", help="the model of the server, if it has several"),
        argument("--api-key-env", metavar="NAME", help="environment variable with the server's key (none is sent)"),
        argument("--concurrency", type=int, metavar="N", help="requests to the server at once (8)"),
        argument("--requests-per-minute", type=float, metavar="N", help="the most requests a minute"),
        ALLOW,
    ),
    run=_record,
    epilog=_EPILOG,
)
