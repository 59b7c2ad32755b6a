"""``distill report RUN [RUN ...]``."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from distill.core.utils.errors import Below, UserError
from distill.core.utils.files import opened, write
from distill.core.utils.json_file import Unreadable, read_mapping
from distill.core.utils.paths import at_home, check_path
from distill.run.folder import Run
from distill.workflows.report.build import build_report
from distill.workflows.report.predictions import Built, Options, Subject
from distill.workflows.report.rule import Rule, broken, check
from distill.workflows.report.show import show

__all__ = ["FILE", "report"]

FILE = "report.json"
_PAGE, _HEAD = b'content="distill report"', 4096  # what an earlier page says of itself, in its first bytes


def report(
    runs: Sequence[str | Path],
    options: Options,
    *,
    rules: Sequence[Rule] = (),
    json: str | Path | None = None,
    html: str | Path | None = None,
) -> Built:
    """Measure the models of some runs, print what was found, and write it into the first run's folder.

    Args:
        runs: Their folders.
        options: What is measured.
        rules: That what is shipped must keep.
        json: Another file for the report.
        html: A file for it as a page.

    Raises:
        UserError: if a run cannot be opened, runs were made on different data, a rule names no figure, or the file
            cannot be written.
        Below: if a rule is broken. The report is written all the same.
    """
    place = _place(json, runs[0])
    page = None if html is None else _file(html, "--html")

    def judge(subjects: Sequence[Subject]) -> None:
        task = subjects[0].job.module.task
        if task.outputs == "positions":
            problem = f"compares predictions over one number of classes, and {task.name} predicts places in a text"
            hint = "distill validate scores a run, and distill runs lists the scores of several"
            raise UserError(problem, key="RUN", value=str(runs[0]), hint=hint)
        metrics = list(task.metrics())
        check(rules, metrics, {one.role for one in subjects}, timed=options.timed)

    built = build_report(runs, replace(options, check=judge))
    show(built.report)
    _write(place, built.report.to_json())
    print(f"report: {place}")
    if page is not None:
        from distill.workflows.report.views.page import write_html
        from distill.workflows.report.views.sections import sections_of

        write_html(built.report, sections_of(built), page)
        print(f"page: {page}")
    if lines := [line for rule in rules for line in broken(rule, built.report)]:
        raise Below("; ".join(lines))
    return built


def _place(given: str | Path | None, run: str | Path) -> Path:
    """The file of the report.

    Raises:
        UserError: if there can be none.
    """
    if given is None:
        opened = Run.open(run)
        opened.refuse_links()
        return opened.folder / FILE
    return _file(given, "--json")


def _file(given: str | Path, key: str) -> Path:
    """A file to write, in a folder that is there: a new one, or an earlier one of its kind.

    Raises:
        UserError: if it is none.
    """
    check_path(given, key)
    place = at_home(given)
    if place.is_dir() or not place.parent.is_dir():
        problem = "is a folder" if place.is_dir() else "lies in no folder"
        raise UserError(problem, key=key, value=str(given), hint="name a file in a folder that is there")
    ending = f".{key.removeprefix('--')}"
    if place.suffix.lower() != ending:
        raise UserError(f"must end in {ending}", key=key, value=str(given), hint=f"write {given}{ending}")
    if place.exists() and not (_is_report(place) if ending == ".json" else _is_page(place)):
        problem, hint = "is there, and is none that this command has written", "name another file, or remove it first"
        raise UserError(problem, key=key, value=str(given), hint=hint)
    return place


def _is_report(file: Path) -> bool:
    try:
        return {"version", "models", "samples"} <= read_mapping(file).keys()
    except Unreadable:
        return False


def _is_page(file: Path) -> bool:
    with suppress(OSError), opened(file) as begun:
        return _PAGE in begun.read(_HEAD)
    return False


def _write(place: Path, text: str) -> None:
    try:
        write(place, text.encode())
    except OSError as error:
        problem = f"cannot be written ({error.strerror})"
        raise UserError(problem, key="--json", value=str(place), hint="make room, or name another file") from None
