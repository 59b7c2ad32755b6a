"""``distill fit``."""

from __future__ import annotations

from argparse import Namespace

from distill.cli.command import ALLOW, BESIDE, Command, argument, config_files
from distill.cli.parser import Overrides
from distill.core.utils.errors import UserError

__all__ = ["FIT"]

_EPILOG = """\
later files and then --key value replace what earlier files say:
  distill fit -c quickstart/alone --seed 1 --model.losses.0.weight=0.5 --data.batch_size 8

keys (dotted, as in the YAML; init_args may be left out):
"""


def _epilog() -> str:
    from distill.workflows.job.key_reference import key_reference

    return _EPILOG + key_reference()


def _fit(options: Namespace, overrides: Overrides) -> None:
    from distill.config.files import given_names, load
    from distill.run.folder import begun_from

    if options.resume and (options.id is None or options.dry_run):
        raise UserError("needs a run to resume", key="--resume", value=options.resume, hint="add --id ID")
    if options.start:
        begun_from(options.start)
    files = [options.start, *options.config] if options.start else options.config
    if not files and not any(key == "model" or key.startswith("model.student") for key, _ in overrides):
        hint = "distill fit -c FILE, with a YAML file or a recipe that `distill list recipes` shows"
        raise UserError("must be given", key="-c", hint=hint)
    config, recipe = load(files, overrides), given_names(files, overrides)
    if options.start:
        from distill.workflows.resume import starting_from

        config = starting_from(options.start, config)
    if options.resume:
        from distill.workflows.resume import fit_or_resume

        fit_or_resume(config, options.id, allow=options.allow, beside=options.beside, recipe=recipe)
    elif options.dry_run:
        from distill.workflows.dry_run import dry_run

        dry_run(config, allow=options.allow, run_id=options.id, beside=options.beside)
    else:
        from distill.workflows.fit import fit

        fit(config, allow=options.allow, run_id=options.id, beside=options.beside, recipe=recipe)


FIT = Command(
    description="Train a student, save it, and show how much of its teacher it kept.",
    arguments=(
        config_files("may be given repeatedly"),
        ALLOW,
        argument("--dry-run", action="store_true", help="build everything, take two steps, write nothing"),
        argument("--id", help="the run's id, a new one if not given"),
        BESIDE,
        argument("--from", dest="start", metavar="RUN", help="begin with the configuration and weights of RUN"),
        argument(
            "--resume",
            choices=("auto",),
            help="with --id: start the run, resume it, or leave it if it has finished",
        ),
    ),
    run=_fit,
    epilog=_epilog,
)
