"""Running the trials of a sweep one after the other, and showing which was best."""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from rich.console import Console
from rich.markup import escape

from distill.config.files import load
from distill.core.idle_settings import idle
from distill.core.utils.console import number, plain_table, wide
from distill.core.utils.errors import TrainingError, UserError, nearest
from distill.core.utils.files import write
from distill.core.utils.secrets import scrub, scrub_override
from distill.core.utils.visible import visible
from distill.core.utils.words import amount
from distill.run.folder import Run
from distill.run.listing import read_json
from distill.run.run_id import new_id
from distill.workflows.sweep.file import SweepFile, find_sweep, read_sweep
from distill.workflows.sweep.search import trials
from distill.workflows.trials.process import run_to_end
from distill.workflows.trials.recipe import Recipe
from distill.workflows.trials.trial import (
    Trial,
    changed,
    check_metric,
    check_values,
    refuse_other_samples,
    root_of,
    text_of,
)

__all__ = ["sweep"]


def sweep(
    name: str, given: Recipe, *, seed: int | None = None, dry_run: bool = False, console: Console | None = None
) -> None:
    """Run the trials of a sweep file that have not finished yet, and show the table of all.

    Args:
        name: The file, or a shipped one's name.
        given: The recipe on the command line. With files it takes the place of the file's own ``command``; without,
            it is added to that.
        seed: Of a random search; 0 if not given.
        dry_run: Only list the trials.
        console: Where to print.

    Raises:
        UserError: if the file cannot be understood, or nothing has the metric that it names.
        TrainingError: if trials failed. The others have run.
        KeyboardInterrupt: if one came; the trial was stopped too.
    """
    file, console = read_sweep(find_sweep(name)), console or wide()
    recipe = _recipe(file, given)
    if seed is not None and file.method == "grid":
        raise idle("--seed", seed, "method: grid", "say `method: random`; a run's own seed is a parameter: seed")
    planned = _plan(file, recipe, seed or 0)
    check_metric(file.metric, load(recipe.files, recipe.overrides), "metric.name")
    check_values(planned, recipe)
    if dry_run:
        _show(f"{file.name}: {amount(len(planned), 'trial')}", planned, file.metric, console)
        return
    _record(planned, recipe)
    failed: list[str] = []
    try:
        for index, trial in enumerate(planned, 1):
            if trial.run.state != "finished":
                console.print(
                    f"trial {index} of {len(planned)}: {escape(visible(shlex.join(scrub(trial.words()))))}",
                    soft_wrap=True,
                )
                if code := run_to_end(trial.command(recipe)):
                    console.print(f"{trial.run.id} failed with exit code {code}")
                    failed.append(trial.run.id)
                    continue
            _check_metric(file, trial)
            refuse_other_samples(trial.run, (one.run for one in planned))
    finally:
        _show_best(file, recipe, planned, failed, console)
    if failed:
        which = f"{len(failed)} of {amount(len(planned), 'trial')} failed: {', '.join(failed)}"
        raise TrainingError(f"{which}. What each of them said is above; the same command tries them again.")


def _recipe(file: SweepFile, given: Recipe) -> Recipe:
    if given.files:
        return given
    if file.recipe is None:
        raise UserError("says no `command`, so a recipe must be given", key="-c", hint="distill sweep FILE -c RECIPE")
    allow, overrides = file.recipe.allow + given.allow, file.recipe.overrides + given.overrides
    return replace(file.recipe, allow=allow, overrides=overrides)


def _plan(file: SweepFile, recipe: Recipe, seed: int) -> list[Trial]:
    """All trials, each with the folder of its run; their keys have been looked up in the recipe."""
    config = load(recipe.files, recipe.overrides)
    root = root_of(config)
    Run.plan(root, file.name, new_id())  # the name and the folder are judged before anything is written
    planned = []
    for index, parameters in enumerate(trials(file, seed), 1):
        planned.append(Trial(Run(root / file.name / f"trial-{index:04d}"), parameters))
        changed(config, parameters)  # their keys are looked up
    return planned


def _record(planned: Sequence[Trial], recipe: Recipe) -> None:
    """Write ``sweep.json`` beside the runs: which parameters a trial's number stands for.

    Raises:
        UserError: if the runs that are there were made with other ones.
    """
    file = planned[0].run.folder.parent / "sweep.json"
    parameters = [{key: scrub_override(key, value) for key, value in t.parameters.items()} for t in planned]
    fresh: dict[str, Any] = {"recipe": recipe.recorded(), "trials": parameters}
    old, broken = read_json(file)
    if broken or not isinstance(old.get("trials", []), list):
        problem = f"{broken or f'{file.name} lists no trials'}, so what the runs beside it were made with is not known"
        hint = f"choose another name, or remove {file.parent}"
        raise UserError(problem, key=file.name, value=str(file), hint=hint)
    if old:
        before = old.get("trials", [])
        shared = min(len(before), len(planned))
        if old.get("recipe") != fresh["recipe"] or before[:shared] != fresh["trials"][:shared]:
            problem = "the runs of this name were made by another sweep"
            raise UserError(
                problem, key="name", value=file.parent.name, hint=f"choose another, or remove {file.parent}"
            )
        fresh["trials"] += before[shared:]
    for trial in planned[len(old.get("trials", [])) :]:
        if trial.run.config_file.is_file():
            problem = f"{file.name} does not say what {trial.run.id} was made with"
            raise UserError(
                problem, key="name", value=file.parent.name, hint=f"choose another, or remove {file.parent}"
            )
    file.parent.mkdir(parents=True, exist_ok=True)
    write(file, (json.dumps(fresh, indent=2) + "\n").encode())


def _check_metric(file: SweepFile, trial: Trial) -> None:
    found = read_json(trial.run.result_file)[0].get("scores")
    scores = found.get("student") if isinstance(found, dict) else None
    scores = scores if isinstance(scores, dict) else {}
    if file.metric is not None and file.metric not in scores:
        raise UserError(
            "no trial has this metric", key="metric.name", value=file.metric, hint=nearest(file.metric, scores)
        )


def _show_best(
    file: SweepFile, recipe: Recipe, planned: Sequence[Trial], failed: Sequence[str], console: Console
) -> None:
    """Show the table, best first, and how to repeat the best."""
    results = [found for trial in planned if (found := read_json(trial.run.result_file)[0])]
    if not results:
        return
    metric, mode = file.metric or results[0].get("monitor"), file.mode or results[0].get("mode")
    sign = -1 if mode == "max" else 1

    def rank(trial: Trial) -> float:
        score = trial.score(metric)
        return math.inf if math.isnan(score) else sign * score

    ordered = sorted(planned, key=rank)
    title = f"{file.name}: {len(results)} of {amount(len(planned), 'trial')}, by {metric}"
    _show(title, ordered, metric, console, failed)
    if math.isnan(ordered[0].score(metric)):
        return
    best = ["distill", "fit", *recipe.words(), *ordered[0].words()]
    console.print(f"best is {ordered[0].run.folder}:\n  {escape(visible(shlex.join(scrub(best))))}", soft_wrap=True)


def _show(
    title: str, planned: Sequence[Trial], metric: str | None, console: Console, failed: Sequence[str] = ()
) -> None:
    table = plain_table(title)
    keys = list(planned[0].parameters)
    for name in ("trial", "state", metric or "", *keys):
        table.add_column(escape(name), overflow="fold", justify="right" if name == metric else "left")
    for trial in planned:
        score = trial.score(metric)
        state = "failed" if trial.run.id in failed else trial.run.state if trial.run.folder.exists() else ""
        given = {key: scrub_override(key, value) for key, value in trial.parameters.items()}
        shown = (number(v) if isinstance(v, float) else text_of(v) for v in given.values())
        table.add_row(trial.run.id, state, "" if math.isnan(score) else number(score), *map(escape, shown))
    console.print(table)
