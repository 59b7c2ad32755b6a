"""Running the trials of a sweep one after the other, and showing which was best."""

from __future__ import annotations

import copy
import json
import math
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from rich.console import Console
from rich.markup import escape

from distill.config.files import apply_override, load, long_form, parse_value
from distill.core.idle_settings import idle
from distill.core.utils.console import number, plain_table, wide
from distill.core.utils.errors import TrainingError, UserError, nearest
from distill.core.utils.files import write
from distill.core.utils.json_file import number_at
from distill.core.utils.paths import at_home
from distill.core.utils.secrets import scrub, scrub_override
from distill.core.utils.visible import visible
from distill.core.utils.words import amount
from distill.run.folder import Run
from distill.run.listing import read_json
from distill.run.run_id import new_id
from distill.workflows.sweep.file import Recipe, SweepFile, find_sweep, read_sweep
from distill.workflows.sweep.process import run_to_end
from distill.workflows.sweep.search import trials

__all__ = ["sweep"]


_CHECKED = 50
"""Trials whose values are judged before the first of them runs; later ones are judged when their turn comes."""


@dataclass(frozen=True)
class Trial:
    """One run of a sweep."""

    run: Run
    parameters: Mapping[str, Any]

    def words(self) -> list[str]:
        """The parameters as arguments of ``distill fit``."""
        return [f"--{key}={_text(value)}" for key, value in self.parameters.items()]

    def score(self, metric: str | None) -> float:
        """The student's; NaN where the run has none, so that it can be told from every number."""
        found = number_at(read_json(self.run.result_file)[0], "scores", "student", metric)
        return math.nan if found is None else found


def _text(value: Any) -> str:
    """``value`` as the command line takes it."""
    plain = isinstance(value, str) and value[:1] not in ("[", "{") and parse_value(value, "") == value
    return value if plain else json.dumps(value)


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
    _check_name(file, load(recipe.files, recipe.overrides))
    _check_values(planned, recipe)
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
                if code := run_to_end(_command(recipe, trial)):
                    console.print(f"{trial.run.id} failed with exit code {code}")
                    failed.append(trial.run.id)
                    continue
            _check_metric(file, trial)
    finally:
        _conclude(file, recipe, planned, failed, console)
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
    root = config.get("runs") or "runs"
    if not isinstance(root, str):
        raise UserError("must be a text", key="runs", value=root, hint="give a folder")
    root = at_home(root)
    Run.plan(root, file.name, new_id())  # the name and the folder are judged before anything is written
    planned = []
    for index, parameters in enumerate(trials(file, seed), 1):
        changed = copy.deepcopy(config)
        for key, value in parameters.items():
            apply_override(changed, key, value)
        planned.append(Trial(Run(root / file.name / f"trial-{index:04d}"), parameters))
    return planned


def _record(planned: Sequence[Trial], recipe: Recipe) -> None:
    """Write ``sweep.json`` beside the runs: which parameters a trial's number stands for.

    Raises:
        UserError: if the runs that are there were made with other ones.
    """
    file = planned[0].run.folder.parent / "sweep.json"
    common = scrub({"files": recipe.files, "allow": recipe.allow})
    common["overrides"] = {key: _recorded(key, text) for key, text in recipe.overrides}
    parameters = [{key: scrub_override(key, value) for key, value in t.parameters.items()} for t in planned]
    fresh = {"recipe": common, "trials": parameters}
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


def _recorded(key: str, text: str) -> str:
    """The text of an override without its secrets, those inside a list or a mapping included."""
    value = parse_value(text, f"--{key}")
    if isinstance(value, (dict, list)):
        return json.dumps(scrub_override(key, value), default=str)
    return str(scrub_override(key, text))


def _command(recipe: Recipe, trial: Trial) -> list[str]:
    run = trial.run
    own = [f"--name={run.name}", "--id", run.id, "--resume", "auto"]
    return [sys.executable, "-m", "distill.cli", "fit", *recipe.words(), *own, *trial.words()]


def _check_values(planned: Sequence[Trial], recipe: Recipe) -> None:
    """Refuse values that no run could have, before the first of them runs: of trials that bring others than before.

    Raises:
        UserError: naming the key.
    """
    from distill.workflows.job.build import judge

    config, seen, checked = load(recipe.files, recipe.overrides), set[str](), 0
    for trial in planned:
        words = set(trial.words())
        if (words <= seen and checked) or checked >= _CHECKED:
            continue
        seen, checked = seen | words, checked + 1
        changed = copy.deepcopy(config)
        for key, value in trial.parameters.items():
            apply_override(changed, key, value)
        judge(long_form(changed), recipe.allow)


def _check_name(file: SweepFile, config: Mapping[str, Any]) -> None:
    """Refuse a metric that no run of the recipe's task has, before the first of them runs.

    Raises:
        UserError: naming it.
    """
    from distill.tasks import TASKS, metric_names

    model = config.get("model")
    task = model.get("task", "text-classification") if isinstance(model, dict) else None
    name = file.metric
    if name is None or not isinstance(task, str) or task not in TASKS or name.startswith("float_"):
        return
    known = metric_names(task)
    if name not in known:
        problem = f"a run of {task} has no such metric"
        raise UserError(problem, key="metric.name", value=name, hint=nearest(name, known))


def _check_metric(file: SweepFile, trial: Trial) -> None:
    found = read_json(trial.run.result_file)[0].get("scores")
    scores = found.get("student") if isinstance(found, dict) else None
    scores = scores if isinstance(scores, dict) else {}
    if file.metric is not None and file.metric not in scores:
        raise UserError(
            "no trial has this metric", key="metric.name", value=file.metric, hint=nearest(file.metric, scores)
        )


def _conclude(
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
        shown = (number(v) if isinstance(v, float) else _text(v) for v in given.values())
        table.add_row(trial.run.id, state, "" if math.isnan(score) else number(score), *map(escape, shown))
    console.print(table)
