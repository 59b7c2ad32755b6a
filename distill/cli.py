"""The ``distill`` command. Imports nothing heavy until there is something to do."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from distill import __version__
from distill.errors import TrainingError, UserError, nearest

__all__ = ["main"]

INTERRUPTED = 130

_HELP = """\
distill trains a small model from a large one.

  distill fit -c FILE [-c FILE ...] [--key value ...]   train, save and score a student
  distill resume RUN [--max-epochs N] [--max-steps N]   go on with a run that was interrupted, or extend it
  distill validate RUN [--key value ...]                score a run's student on its validation data
  distill test RUN [--key value ...]                    score a run's student on its test data
  distill quantize RUN [--calibrate N] [--bits B]       quantise a run's student without training
  distill export RUN --to hf|onnx|onnx-int8             write a run's student for others to run, verified
  distill sensitivity RUN [--sparsity S] [--bits B]     which layers can be pruned, which rounded, and how far
  distill runs [FOLDER] [--json]                        what became of the runs below a folder
  distill runs --compare RUN RUN [RUN ...]              how runs differ, in configuration and figures
  distill sweep FILE [-c FILE ...] [--key value ...]    a grid or random search over keys, one run a trial
  distill list [KIND ...]                               losses, schedules, callbacks, tasks, recipes

  distill COMMAND --help                                options of a command
  distill --version

FILE is a YAML file, a run's folder (to repeat it), or the name of a recipe that `distill list recipes` shows.
"""

_FIT = """\
later files and then --key value replace what earlier files say:
  distill fit -c quickstart/alone --seed 1 --model.losses.0.weight=0.5 --data.batch_size 8

keys (dotted, as in the YAML; init_args may be left out):
"""

_OVER_RUN = """\
--key value replaces a part of the run's configuration, as for distill fit:
  distill {command} runs/NAME/ID --data.eval_batch_size 8 --data.splits.{split} SPLIT
"""

_SWEEP = """\
FILE is a W&B sweep file (method grid or random; `wandb sweep FILE` and `wandb agent` take it too), or the name of a
shipped one: sweeps/sst2-hinton. Without -c the recipe is the one that its `command` names. Trials that have finished
are read, not repeated: the same command goes on where an interrupted one stopped.
  distill sweep sweeps/sst2-hinton --model.teacher runs/sst2-teacher/ID
"""

_KINDS = ("losses", "schedules", "callbacks", "tasks", "recipes")


class _Parser(argparse.ArgumentParser):
    """Reports mistakes as every other mistake of the user is reported."""

    def error(self, message: str) -> NoReturn:
        raise UserError(message, mend=f"see {self.prog} --help")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code.

    0: done. 1: training could not go on. 2: something the user can mend. 130: interrupted.
    """
    try:
        return _run(list(sys.argv[1:] if argv is None else argv))
    except UserError as error:
        return _complain(str(error), 2)
    except TrainingError as error:
        return _complain(str(error), 1)
    except BrokenPipeError:  # `distill list | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        return _complain("interrupted", INTERRUPTED)


def _complain(message: str, code: int) -> int:
    print(f"distill: error: {message}", file=sys.stderr)
    return code


def _run(argv: list[str]) -> int:
    commands = {
        "fit": _fit,
        "resume": _resume,
        "validate": _evaluate,
        "test": _evaluate,
        "quantize": _quantize,
        "export": _export,
        "sensitivity": _sensitivity,
        "runs": _runs,
        "sweep": _sweep,
        "list": _list,
    }
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(_HELP, end="")
        return 0
    if argv[0] in ("-V", "--version"):
        print(f"distill {__version__}")
        return 0
    if argv[0] not in commands:
        raise UserError("no such command", key="distill", value=argv[0], mend=nearest(argv[0], commands))
    return commands[argv[0]](argv[0], argv[1:])


def _split(parser: argparse.ArgumentParser, argv: list[str]) -> tuple[Any, list[tuple[str, str]]]:
    """The options that ``parser`` knows, and every other ``--key value`` as an override."""
    from distill.config import split_override

    known = {option for action in parser._actions for option in action.option_strings}
    mine: list[str] = []
    overrides = []
    while argv:
        token, argv = argv[0], argv[1:]
        if token.startswith("--") and token.partition("=")[0] not in known:
            override, taken = split_override(token, argv)
            overrides.append(override)
            argv = argv[taken:]
            continue
        mine.append(token)
        if token in known and argv and _takes_value(parser, token):
            mine.append(argv[0])
            argv = argv[1:]
    return parser.parse_args(mine), overrides


def _takes_value(parser: argparse.ArgumentParser, option: str) -> bool:
    return any(option in action.option_strings and action.nargs != 0 for action in parser._actions)


def _options(command: str, description: str) -> _Parser:
    parser = _Parser(
        prog=f"distill {command}",
        description=description,
        allow_abbrev=False,
        add_help=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("-h", "--help", action="store_true", help="show this and exit")
    return parser


def _allow(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--allow",
        action="append",
        default=[],
        metavar="PACKAGE",
        help="classes of this package may be named by class_path; it is looked for in the current folder too",
    )


def _fit(command: str, argv: list[str]) -> int:
    parser = _options(command, "Train a student, save it, and show how much of its teacher it kept.")
    parser.add_argument("-c", "--config", action="append", default=[], metavar="FILE", help="may be given repeatedly")
    _allow(parser)
    parser.add_argument("--dry-run", action="store_true", help="build everything, take two steps, write nothing")
    parser.add_argument("--id", help="the run's id, a new one if not given")
    parser.add_argument("--from", dest="start", metavar="RUN", help="begin with the configuration and weights of RUN")
    parser.add_argument(
        "--resume", choices=("auto",), help="with --id: start the run, go on with it, or leave it if it has finished"
    )
    options, overrides = _split(parser, argv)
    if options.help:
        from distill.keys import keys

        parser.epilog = _FIT + keys()
        print(parser.format_help())
        return 0
    from distill.config import load

    if options.resume and (options.id is None or options.dry_run):
        raise UserError("needs a run to go on with", key="--resume", value=options.resume, mend="add --id ID")
    files = [options.start, *options.config] if options.start else options.config
    config = load(files, overrides)
    if options.start:
        from distill.resume import starting_from

        config = starting_from(options.start, config)
    if options.resume:
        from distill.resume import fit_or_resume

        fit_or_resume(config, options.id, allow=options.allow)
    elif options.dry_run:
        from distill.dry_run import dry_run

        dry_run(config, allow=options.allow, run_id=options.id)
    else:
        from distill.launch import fit

        fit(config, allow=options.allow, run_id=options.id)
    return 0


def _resume(command: str, argv: list[str]) -> int:
    parser = _options(command, "Go on with a run that was interrupted, as if it had not been, or extend one.")
    parser.add_argument("run", metavar="RUN", nargs="?", help="the run's folder, as `distill fit` named it")
    for name in ("epochs", "steps"):
        parser.add_argument(f"--max-{name}", metavar="N", help=f"extend the run to so many {name}")
    _allow(parser)
    options, overrides = _split(parser, argv)
    if options.help:
        print(parser.format_help())
        return 0
    if options.run is None:
        raise UserError("must be given", key="RUN", mend="distill resume runs/NAME/ID")
    lengths = {"trainer.max_epochs": options.max_epochs, "trainer.max_steps": options.max_steps}
    overrides += [(key, value) for key, value in lengths.items() if value is not None]
    from distill.resume import resume

    resume(options.run, overrides=overrides, allow=options.allow)
    return 0


def _of_run(
    command: str, argv: list[str], description: str, split: str, *arguments: tuple[str, dict[str, Any]]
) -> tuple[Any, list[tuple[str, str]]] | None:
    """The options and overrides of a command that takes a run; nothing where only its help was asked for.

    Args:
        command: The command.
        argv: Its arguments.
        description: What it does.
        split: The data it reads: ``validation`` or ``test``.
        arguments: Options of its own, each with what ``add_argument`` takes.
    """
    parser = _options(command, description)
    parser.epilog = _OVER_RUN.format(command=command, split=split)
    parser.add_argument("run", metavar="RUN", nargs="?", help="the run's folder, as `distill fit` named it")
    for name, settings in arguments:
        parser.add_argument(name, **settings)
    _allow(parser)
    options, overrides = _split(parser, argv)
    if options.help:
        print(parser.format_help())
        return None
    if options.run is None:
        raise UserError("must be given", key="RUN", mend=f"distill {command} runs/NAME/ID")
    return options, overrides


def _evaluate(command: str, argv: list[str]) -> int:
    split = {"validate": "validation", "test": "test"}[command]
    if given := _of_run(command, argv, f"Score the student that a run saved, on its {split} data.", split):
        options, overrides = given
        from distill.finished import evaluate

        evaluate(options.run, command, overrides=overrides, allow=options.allow)
    return 0


def _sensitivity(command: str, argv: list[str]) -> int:
    given = _of_run(
        command,
        argv,
        "Compress one layer of a run's student at a time, and show what becomes of its predictions. Writes a table, a\n"
        "plot, and a YAML whose overrides reach the targets at the least cost, to give to `distill fit -c`.",
        "validation",
        ("--samples", {"type": int, "default": 512, "help": "validation samples to look at (%(default)s)"}),
        ("--sparsity", {"type": float, "default": 0.8, "help": "mean sparsity that the YAML reaches (%(default)s)"}),
        ("--bits", {"type": float, "default": 6.0, "help": "mean bits a weight that the YAML reaches (%(default)s)"}),
        ("--output", {"help": "folder to write to; sensitivity/ in the run's own if not given"}),
    )
    if given:
        options, overrides = given
        from distill.finished import sensitivity

        sensitivity(
            options.run,
            samples=options.samples,
            sparsity=options.sparsity,
            bits=options.bits,
            output=options.output,
            overrides=overrides,
            allow=options.allow,
        )
    return 0


def _quantize(command: str, argv: list[str]) -> int:
    given = _of_run(
        command,
        argv,
        "Quantise the student of a run without training it, into a run of its own: what quantization-aware training\n"
        "has to beat.",
        "validation",
        ("--calibrate", {"type": int, "default": 256, "metavar": "N", "help": "training samples that ranges are from"}),
        ("--bits", {"type": int, "default": 8, "help": "bits of a weight: 2, 3, 4, 6 or 8 (%(default)s)"}),
        (
            "--group",
            {"type": int, "metavar": "N", "help": "weights that share a scale (a channel's)"},
        ),
        ("--asymmetric", {"action": "store_true", "help": "weights with a zero point"}),
        ("--reduced-range", {"action": "store_true", "help": "weights of 7 bits in 8, for x86 without VNNI"}),
        (
            "--activations",
            {"choices": ("static", "dynamic", "none"), "default": "static", "help": "inputs of layers (%(default)s)"},
        ),
        ("--no-embeddings", {"action": "store_true", "help": "leave embeddings in floating point"}),
        ("--id", {"help": "the new run's id, a new one if not given"}),
    )
    if given:
        options, overrides = given
        from distill.finished import quantize
        from distill.quantize.scheme import ActivationScheme

        quantize(
            options.run,
            calibrate=options.calibrate,
            weights=_weights(options),
            activations=None if options.activations == "none" else ActivationScheme(kind=options.activations),
            embeddings=not options.no_embeddings,
            run_id=options.id,
            overrides=overrides,
            allow=options.allow,
        )
    return 0


def _weights(options: argparse.Namespace) -> Any:
    """The scheme that the options describe; mistakes in it are theirs."""
    from distill.quantize.scheme import WeightScheme

    try:
        return WeightScheme(
            bits=options.bits,
            granularity="channel" if options.group is None else "group",
            group_size=options.group,
            symmetric=not options.asymmetric,
            reduced_range=options.reduced_range,
        )
    except UserError as error:
        option = {"bits": "--bits", "group_size": "--group", "reduced_range": "--reduced-range"}[error.key]
        raise UserError(error.rule, key=option, value=error.value, mend=error.mend) from error


def _export(command: str, argv: list[str]) -> int:
    given = _of_run(
        command,
        argv,
        "Write a run's student in a format that others run, verify on its validation data that it does the same,\n"
        "and measure it. Needs the export extra for ONNX.",
        "validation",
        ("--to", {"choices": ("hf", "onnx", "onnx-int8"), "help": "the format"}),
        ("--output", {"metavar": "DIR", "help": "folder to write; exports/FORMAT in the run's own if not given"}),
        ("--isa", {"choices": ("avx2", "vnni", "arm"), "help": "what integers are for; this machine if not given"}),
    )
    if given:
        options, overrides = given
        if options.to is None:
            raise UserError("must be given", key="--to", mend="hf, onnx or onnx-int8")
        from distill.export.run import export

        export(options.run, options.to, options.output, options.isa, overrides=overrides, allow=options.allow)
    return 0


def _runs(command: str, argv: list[str]) -> int:
    parser = _options(command, "Show the runs below a folder, oldest first, or compare some.")
    parser.add_argument("folder", metavar="FOLDER", nargs="?", help="of runs, or one run's own (runs)")
    parser.add_argument("--json", action="store_true", help="print a JSON list, for scripts")
    parser.add_argument("--compare", nargs="+", metavar="RUN", help="show where these differ, and their figures")
    options = parser.parse_args(argv)
    if options.help:
        print(parser.format_help())
        return 0
    if options.compare is not None:
        if options.folder is not None or options.json:
            raise UserError("stands alone", key="--compare", mend="distill runs --compare RUN RUN")
        from distill.compare import compare

        compare(options.compare)
    else:
        from distill.listing import show_runs

        show_runs(options.folder or "runs", as_json=options.json)
    return 0


def _sweep(command: str, argv: list[str]) -> int:
    parser = _options(command, "Search over keys of a configuration: one run for each trial, and a table, best first.")
    parser.epilog = _SWEEP
    parser.add_argument("file", metavar="FILE", nargs="?", help="what to try")
    parser.add_argument("-c", "--config", action="append", default=[], metavar="FILE", help="as for distill fit")
    _allow(parser)
    parser.add_argument("--seed", type=int, default=0, help="of a random search; a run's own stands in its recipe (0)")
    parser.add_argument("--dry-run", action="store_true", help="list the trials, write nothing")
    options, overrides = _split(parser, argv)
    if options.help:
        print(parser.format_help())
        return 0
    if options.file is None:
        raise UserError("must be given", key="FILE", mend="distill sweep FILE -c RECIPE")
    from distill.sweep.file import Recipe
    from distill.sweep.run import sweep

    given = Recipe(files=tuple(options.config), allow=tuple(options.allow), overrides=tuple(overrides))
    sweep(options.file, given, seed=options.seed, dry_run=options.dry_run)
    return 0


def _list(command: str, argv: list[str]) -> int:
    parser = _options(command, "Show what a configuration can name, each with its defaults.")
    parser.add_argument("kinds", metavar="KIND", nargs="*", help=", ".join(_KINDS))
    options = parser.parse_args(argv)
    if options.help:
        print(parser.format_help())
        return 0
    for kind in options.kinds:
        if kind not in _KINDS:
            raise UserError("no such kind", key="KIND", value=kind, mend=nearest(kind, _KINDS))
    from distill.catalogue import show

    show(options.kinds or _KINDS)
    return 0


if __name__ == "__main__":
    sys.exit(main())
