"""``distill record``."""

from __future__ import annotations

from argparse import Namespace
from typing import TYPE_CHECKING

from distill.cli.command import ALLOW, Command, argument, config_files
from distill.cli.needs import Need, refuse_idle_options
from distill.cli.parser import Overrides
from distill.core.idle_settings import idle
from distill.core.utils.errors import UserError

if TYPE_CHECKING:
    from distill.workflows.record import Form
    from distill.workflows.record.origin import Origin

__all__ = ["RECORD"]

_EPILOG = """\
A run then reads it instead of running the teacher. After a kill, the same command resumes.
  distill record -c RECIPE --to recorded/NAME --as hidden --dtype int8
  distill fit -c RECIPE --model.teacher.recorded recorded/NAME
A teacher that does not fit here is asked for its most likely tokens where it is served (vLLM and others):
  distill record -c RECIPE --to recorded/NAME --from-server http://HOST:8000/v1 --k 20
Or vLLM writes its hidden states for the prompts of the data:
  distill record -c RECIPE --write-prompts prompts.jsonl
  distill record -c RECIPE --to recorded/NAME --from-hidden-states FOLDER --verify 1
"""

_OF_SERVER = ("served_model", "api_key_env", "concurrency", "requests_per_minute")


def _record(options: Namespace, overrides: Overrides) -> None:
    from distill.config.files import load
    from distill.workflows.record import Form, record, write_prompts

    refuse_idle_options(options, _NEEDS)
    if options.verify == 0:
        raise idle("--verify", 0, "no sample to run the teacher on", "give 1 or more")
    elsewhere = "topk" if options.from_server else "hidden" if options.from_hidden_states else None
    options.kind = elsewhere if options.kind is None else options.kind
    for key, value, hint in (
        ("-c", options.config, "name the recipe of the run that is to learn from it"),
        ("--to", options.to or options.write_prompts, "name a folder"),
        (
            "--as",
            options.kind or options.write_prompts,
            "name a kind: hidden for language models, logits for classifiers",
        ),
    ):
        if not value:
            raise UserError("must be given", key=key, hint=hint)
    config = load(options.config, overrides)
    if options.write_prompts:
        write_prompts(config, options.write_prompts, allow=options.allow)
        return
    k = 20 if options.from_server and options.k is None and options.kind == "topk" else options.k
    form = Form(options.kind, options.dtype, k, options.draws)
    record(config, options.to, form, _origin(options, form), part=options.part, allow=options.allow)


def _origin(options: Namespace, form: Form) -> Origin | None:
    from distill.core.utils.paths import at_home
    from distill.workflows.record import Files, Server

    if options.from_hidden_states:
        return Files(at_home(options.from_hidden_states), form, 0 if options.verify is None else options.verify)
    if not options.from_server:
        return None
    concurrency = 8 if options.concurrency is None else options.concurrency
    of_server = options.served_model, options.api_key_env, concurrency, options.requests_per_minute
    return Server(options.from_server, form, *of_server)


_HERE = "a teacher that runs here"
_NEEDS = (
    *(
        Need(name, lambda options: options.from_server is not None, _HERE, "give --from-server too")
        for name in _OF_SERVER
    ),
    Need("verify", lambda options: options.from_hidden_states is not None, _HERE, "give --from-hidden-states too"),
    Need("to", lambda options: options.write_prompts is None, "--write-prompts", "leave --write-prompts out"),
    Need("from_hidden_states", lambda options: options.from_server is None, "--from-server", "leave --from-server out"),
)


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
        argument(
            "--from-hidden-states",
            metavar="FOLDER",
            help="take the last hidden states that vLLM's ExampleHiddenStatesConnector has written",
        ),
        argument("--verify", type=int, metavar="N", help="run the whole teacher on N samples, and compare its states"),
        argument("--write-prompts", metavar="FILE", help="write the data's prompts as token ids for vLLM, and no more"),
        argument("--requests-per-minute", type=float, metavar="N", help="the most requests a minute"),
        ALLOW,
    ),
    run=_record,
    epilog=_EPILOG,
)
