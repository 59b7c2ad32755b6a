"""Running the trials of a search one after the other, each rung in a run of its own."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

from optuna.trial import TrialState
from rich.console import Console
from rich.markup import escape

from distill.config.files import load
from distill.core.utils.console import wide
from distill.core.utils.errors import Below, TrainingError, UserError
from distill.core.utils.extras import installing
from distill.core.utils.paths import at_home
from distill.run.boundary import refuse_links
from distill.run.folder import Run
from distill.run.lock import locked
from distill.workflows.search.files import PICTURE, draw, point_file, write_front, write_record
from distill.workflows.search.knobs import parameters_of
from distill.workflows.search.measured import Measured, measure
from distill.workflows.search.outcome import Outcome, Tried, beside_the_teacher, margin_of
from distill.workflows.search.plan import Asked, Plan, asked_before, plan
from distill.workflows.search.rungs import gains, goes_on, hope
from distill.workflows.search.show import show_outcome, show_plan, show_progress, values_said
from distill.workflows.search.study import Study
from distill.workflows.search.target import said
from distill.workflows.trials.process import run_to_end
from distill.workflows.trials.recipe import Recipe
from distill.workflows.trials.trial import Trial, refuse_other_samples

__all__ = ["resume", "search"]

_MOST = 10_000

_STOPPED = (130, 143)
"""Exit codes of commands that were interrupted or terminated."""

_SAMPLES = 64
"""On which the export of a run is verified that is not of the last rung."""


def search(
    recipe: Recipe, asked: Asked, trials: int, *, dry_run: bool = False, console: Console | None = None
) -> Outcome:
    """Search for the cheapest student that meets a target; or go on with the search that is there.

    Args:
        recipe: As of ``distill fit``.
        asked: What is searched.
        trials: How many there are to be in the end.
        dry_run: Only say what would be searched.
        console: Where to print.

    Returns:
        What it came to.

    Raises:
        UserError: for what is wrong with the recipe or the wishes. Nothing was trained.
        TrainingError: if the recipe itself could not be trained.
        Below: if no trial meets the target. Everything is written all the same.
        KeyboardInterrupt: if one came; the trial was stopped too.
    """
    if not 1 <= trials <= _MOST:
        hint = "24 are a good beginning"
        raise UserError(f"must be from 1 to {_MOST:,}", key="--trials", value=trials, hint=hint)
    console = console or wide()
    console.print("reading the recipe's data and models, to see what can be searched")
    settled = plan(recipe, asked)
    show_plan(settled, trials, console)
    if dry_run:
        return Outcome(settled.rule, asked.minimize, [])
    settled.folder.mkdir(parents=True, exist_ok=True)
    refuse_links(settled.folder)
    with locked(settled.folder / ".lock"):
        outcome = _Search(settled, console).to_end(trials)
    if outcome.best is None:
        nearest = max(outcome.points, key=lambda one: one.margin, default=None)
        near = "" if nearest is None else f"; the nearest is trial {nearest.trial} with {nearest.measured.value:.5g}"
        raise Below(f"no trial meets {said(settled.rule, outcome.teacher)}{near}")
    return outcome


def resume(folder: str, trials: int | None, *, dry_run: bool = False) -> Outcome:
    """Go on with the search in a folder, as it was asked for.

    Args:
        folder: Its own.
        trials: How many there are to be in the end; as many as were asked for at the last time if not given.
        dry_run: Only say what is searched.

    Raises:
        UserError: if there is none, or it lies elsewhere than it was begun.
    """
    place = at_home(folder)
    recipe, asked, before = asked_before(place)
    settled = plan(recipe, asked)
    if settled.folder.resolve() != place.resolve():
        problem = f"was begun as {settled.folder}, seen from here"
        hint = "go to the folder in which it was begun, or move it back"
        raise UserError(problem, key="--resume", value=folder, hint=hint)
    return search(recipe, asked, before if trials is None else trials, dry_run=dry_run)


class _Failed(Exception):
    """A trial has no figures: why."""


def _call(command: Sequence[str], what: str) -> None:
    """Run a command to its end.

    Raises:
        KeyboardInterrupt: if someone stopped it: the search is stopped too, and the run can be resumed.
        _Failed: if it ended badly.
    """
    code = run_to_end(command)
    if code in _STOPPED:
        raise KeyboardInterrupt
    if code:
        raise _Failed(f"{what} ended with exit code {code}")


class _Search:
    def __init__(self, settled: Plan, console: Console) -> None:
        self.plan, self.console = settled, console
        self.config = load(settled.recipe.files, settled.recipe.overrides)
        file = settled.folder / "study.db"
        self.study = Study(file, settled.knobs, settled.asked.sampler, settled.asked.seed, settled.given)
        self._seconds: list[float] = []
        self._wanted = 0

    def to_end(self, trials: int) -> Outcome:
        """Run trials until there are so many, and show what they came to."""
        self._wanted = trials
        outcome = self._record()
        try:
            while outcome.ended < trials:
                begun = time.monotonic()
                number = self._one(trials)
                self._seconds.append(time.monotonic() - begun)
                outcome = self._record()
                left = (trials - outcome.ended) * sum(self._seconds) / len(self._seconds)
                show_progress(outcome, outcome.trials[number], trials, left, self.console)
        finally:
            outcome = self._write_fronts()
        return outcome

    def _record(self, importance: Mapping[str, Mapping[str, float]] | None = None) -> Outcome:
        outcome = self.outcome(importance)
        write_record(self.plan, outcome, self._wanted)
        return outcome

    def outcome(self, importance: Mapping[str, Mapping[str, float]] | None = None) -> Outcome:
        """What is known so far."""
        tried = [
            Tried(
                number=one.number + 1,
                values=self.study.values(one) if self.study.whole(one) else {},
                rungs=self.study.rungs(one),
                failed=self.study.why_failed(one),
                ended=one.state != TrialState.RUNNING,
            )
            for one in self.study.trials()
        ]
        return Outcome(self.plan.rule, self.plan.asked.minimize, beside_the_teacher(tried), importance)

    def _one(self, trials: int) -> int:
        """Run the next trial; its number, from 0."""
        trial = self.study.next()
        values = self.study.values(trial)
        self.console.rule(f"trial {trial.number + 1} of {trials}")
        self.console.print(values_said(self.plan.knobs, values), soft_wrap=True)
        reached: list[Measured] = []
        try:
            for rung in range(len(self.plan.steps)):
                reached.append(self._run(trial.number, rung, values))
                self.study.note(trial, reached)
                if not self._goes_on(trial.number, reached):
                    break
        except _Failed as why:
            if trial.number == 0 and self.plan.given:
                problem = f"{why}, and it is the recipe itself. What it said is above; the same command tries it again"
                raise TrainingError(problem) from None
            self.study.fail(trial, str(why))
            return trial.number
        margins = self._margins(trial.number, reached)
        expected = hope(margins[trial.number], gains(list(margins.values()), len(self.plan.steps)))
        self.study.end(trial, reached[-1].cost(self.plan.asked.minimize), expected)
        return trial.number

    def _margins(self, number: int, reached: Sequence[Measured]) -> dict[int, list[float]]:
        """Of the trials before this one, and of this one."""
        rungs = {one.number - 1: one.rungs for one in self.outcome().trials if one.rungs} | {number: reached}
        return {one: [margin_of(self.plan.rule, each) for each in there] for one, there in rungs.items()}

    def _goes_on(self, number: int, reached: Sequence[Measured]) -> bool:
        rung, steps = len(reached) - 1, self.plan.steps
        if rung + 1 == len(steps):
            return False
        costs = {one.number - 1: one.rungs[0] for one in self.outcome().trials if one.rungs} | {number: reached[0]}
        cheap = {one: each.cost(self.plan.asked.minimize) for one, each in costs.items()}
        return goes_on(number, rung, self._margins(number, reached), cheap, steps[rung] / steps[rung + 1])

    def _run(self, number: int, rung: int, values: Mapping[str, Any]) -> Measured:
        """Train a trial for the length of a rung and export it, as far as that was not done before."""
        steps, last = self.plan.steps[rung], rung + 1 == len(self.plan.steps)
        length = {} if last else {"trainer.max_steps": steps}
        run = Run(self.plan.folder / f"trial-{number + 1:04d}-rung-{rung + 1}")
        trial = Trial(run, parameters_of(self.plan.knobs, values, self.config) | length)
        if run.state == "running":  # a search that was killed alone has left its trial at work
            with run.locked():  # says who it is: neither is the trial's fault, nor may it be noted as failed
                pass
        if run.state != "finished":
            self.console.print(f"rung {rung + 1} of {len(self.plan.steps)}: {steps:,} steps")
            _call(trial.command(self.plan.recipe), run.id)
        if not (run.folder / "exports" / self.plan.to / "export.json").is_file():
            brief = [] if last else ["--samples", str(_SAMPLES)]
            brief += [] if last or self.plan.asked.minimize == "latency" else ["--no-timing"]
            allow = [word for package in self.plan.recipe.allow for word in ("--allow", package)]
            command = [sys.executable, "-m", "distill.cli", "export", str(run.folder), "--to", self.plan.to]
            _call([*command, *brief, *allow], f"the export of {run.id}")
        shutil.rmtree(run.checkpoints, ignore_errors=True)  # this run is not resumed any more
        refuse_other_samples(run, map(Run, sorted(self.plan.folder.glob("trial-*-rung-1"))))
        return self._measured(run)

    def _measured(self, run: Run) -> Measured:
        found = measure(run, self.plan.rule.figure, self.plan.to)
        if self.plan.rule.role == "teacher" and found.teacher is None:
            raise TrainingError(
                f"{run.shown} does not know its teacher's {self.plan.rule.figure}: give --target a number"
            )
        return found

    def _write_fronts(self) -> Outcome:
        outcome = self._record(self.study.importance())
        if not outcome.points:
            return outcome
        write_front(self.plan, outcome)
        lacking = draw(self.plan, outcome)
        show_outcome(self.plan, outcome, self.console)
        folder = self.plan.folder
        picture = f"no {PICTURE}: {lacking} is not installed, {installing('plots')}" if lacking else PICTURE
        self.console.print(
            f"{folder}: search.json, front/ with a configuration a point, {escape(picture)}", soft_wrap=True
        )
        if (best := outcome.best) is not None:
            run = folder / best.measured.run
            self.console.print(f"best is trial {best.trial}: {run / 'exports' / self.plan.to}", soft_wrap=True)
            self.console.print(f"  distill fit -c {folder / point_file(best)}", soft_wrap=True)
        return outcome
