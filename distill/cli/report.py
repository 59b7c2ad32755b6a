"""``distill report``."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from distill.cli.command import ALLOW, Command, argument
from distill.cli.needs import Need, refuse_idle_options
from distill.cli.parser import Overrides
from distill.core.utils.errors import UserError

__all__ = ["REPORT"]

_EPILOG = """\
A run stands for its teacher, its student, the same student trained without a teacher, and the exports in its folder.
--key value replaces a part of the runs' configuration, as for distill fit.
  distill report runs/NAME/ID
  distill report runs/NAME/ID --html report.html
  distill report runs/NAME/ID --fail-below 'accuracy >= 0.99 * teacher' --fail-below 'bytes <= 20e6'

A rule is FIGURE >= NUMBER, or FIGURE >= NUMBER * MODEL (or <=, >, <). FIGURE is a metric of the task, or bytes,
gzipped_bytes, parameters, nonzero, flops, latency (ms), throughput, ece, brier, kept (percent). MODEL is teacher,
alone, distilled, compressed or float. The exports are judged, and the student of a run that has none.
A rule that is broken ends with exit code 3.
"""


_SECONDS = 10.0

_NEEDS = (Need("seconds", lambda options: not options.no_timing, "--no-timing", "leave --no-timing out"),)


def _report(options: Namespace, overrides: Overrides) -> None:
    from distill.workflows.report.rule import parse

    if not options.run:
        raise UserError("must be given", key="RUN", hint="distill report runs/NAME/ID")
    refuse_idle_options(options, _NEEDS)
    _refuse_twice(options.run)
    rules = [parse(text) for text in options.fail_below]
    for name in ("samples", "draws"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise UserError("must be at least 1", key=f"--{name}", value=value, hint="leave it out")
    seconds = _SECONDS if options.seconds is None else options.seconds
    if not 0 < seconds < float("inf"):
        raise UserError("must be greater than 0", key="--seconds", value=seconds, hint="leave it out")

    from distill.workflows.report.predictions import Options
    from distill.workflows.report.run import report

    asked = Options(
        samples=options.samples,
        split="test" if options.test else "validate",
        overrides=overrides,
        allow=options.allow,
        timed=not options.no_timing,
        draws=options.draws,
        seconds=seconds,
        seed=options.seed,
    )
    report(options.run, asked, rules=rules, json=options.json, html=options.html)


def _refuse_twice(runs: Sequence[str]) -> None:
    """Refuse a run that is named twice, as it is no other one to compare with."""
    seen: set[Path] = set()
    for run in runs:
        place = Path(run).expanduser().resolve()
        if place in seen:
            raise UserError("is named twice", key="RUN", value=run, hint="name it once, or another one beside it")
        seen.add(place)


REPORT = Command(
    "Measure the models of one or several runs on the same samples, side by side: scores with intervals, sizes, speed.",
    (
        argument("run", metavar="RUN", nargs="*", help="the runs' folders, as `distill fit` named them"),
        argument("--json", metavar="FILE", help="write the report here; report.json in the first run's folder"),
        argument("--html", metavar="FILE", help="write it as a page too, which needs no network"),
        argument(
            "--fail-below",
            action="append",
            default=[],
            metavar="RULE",
            help="exit with code 3 unless this holds, such as 'accuracy >= 0.99 * teacher'",
        ),
        argument("--samples", type=int, metavar="N", help="score so many samples; all that validation reads"),
        argument("--test", action="store_true", help="score the test data"),
        argument("--no-timing", action="store_true", help="measure neither latency nor memory"),
        argument("--seconds", type=float, metavar="S", help=f"that timing takes, about ({_SECONDS})"),
        argument("--draws", type=int, default=1000, metavar="N", help="of each bootstrap (%(default)s)"),
        argument("--seed", type=int, default=0, metavar="N", help="of the draws (%(default)s)"),
        ALLOW,
    ),
    _report,
    "runs/NAME/ID",
    _EPILOG,
)
