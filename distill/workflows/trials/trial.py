"""One trial: a run of a recipe with some of its keys changed."""

from __future__ import annotations

import copy
import json
import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distill.config.files import apply_override, load, long_form, parse_value
from distill.core.utils.errors import TrainingError, UserError, nearest
from distill.core.utils.json_file import number_at
from distill.core.utils.paths import at_home
from distill.run.folder import Run
from distill.run.listing import read_json
from distill.run.samples import of_other_samples
from distill.workflows.trials.recipe import Recipe

__all__ = ["Trial", "changed", "check_metric", "check_values", "refuse_other_samples", "root_of", "text_of"]

_CHECKED = 50
"""Trials whose values are judged before the first of them runs; later ones are judged when their turn comes."""


@dataclass(frozen=True)
class Trial:
    """One run of several.

    Attributes:
        run: Its folder, which need not be there yet.
        parameters: Key of the configuration -> its value.
    """

    run: Run
    parameters: Mapping[str, Any]

    def words(self) -> list[str]:
        """The parameters as arguments of ``distill fit``."""
        return [f"--{key}={text_of(value)}" for key, value in self.parameters.items()]

    def command(self, recipe: Recipe) -> list[str]:
        """What runs it in a process of its own: it starts, resumes, or leaves a run that has finished."""
        own = [f"--name={self.run.name}", "--id", self.run.id, "--resume", "auto"]
        return [sys.executable, "-m", "distill.cli", "fit", *recipe.words(), *own, *self.words()]

    def score(self, metric: str | None, of: str = "student") -> float:
        """The student's; NaN where the run has none, so that it can be told from every number."""
        found = number_at(read_json(self.run.result_file)[0], "scores", of, metric)
        return math.nan if found is None else found


def text_of(value: Any) -> str:
    """``value`` as the command line takes it."""
    plain = isinstance(value, str) and value[:1] not in ("[", "{") and parse_value(value, "") == value
    return value if plain else json.dumps(value)


def refuse_other_samples(run: Run, trials: Iterable[Run]) -> None:
    """Stop where a trial was scored on other samples than the first one that has been, and nobody asked for it.

    Raises:
        TrainingError: if so: their scores do not compare.
    """
    first = next((one for one in trials if one.result_file.is_file()), run)
    found, began = (read_json(one.result_file)[0] for one in (run, first))
    if of_other_samples(found, began.get("data")) and run.config.get("data") == first.config.get("data"):
        problem = (
            f"{run.shown} was scored on other validation samples than {first.id}: the files of the data have changed"
        )
        raise TrainingError(
            f"{problem} between the two. Bring them back and remove {run.id}, or begin under another name"
        )


def root_of(config: Mapping[str, Any]) -> Path:
    """The folder above all runs.

    Raises:
        UserError: if it is no text.
    """
    root = config.get("runs") or "runs"
    if not isinstance(root, str):
        raise UserError("must be a text", key="runs", value=root, hint="give a folder")
    return at_home(root)


def changed(config: Mapping[str, Any], parameters: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of ``config`` with these values.

    Raises:
        UserError: if a key leads nowhere.
    """
    copied = copy.deepcopy(dict(config))
    for key, value in parameters.items():
        apply_override(copied, key, value)
    return copied


def check_values(planned: Sequence[Trial], recipe: Recipe) -> None:
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
        judge(long_form(changed(config, trial.parameters)), recipe.allow)


def check_metric(name: str | None, config: Mapping[str, Any], key: str) -> None:
    """Refuse a metric that no run of the recipe's task has, before the first of them runs.

    Args:
        name: Of the metric, if one was named.
        config: The recipe.
        key: Where it was named.

    Raises:
        UserError: naming it.
    """
    from distill.tasks import DEFAULT, TASKS, metric_names

    model = config.get("model")
    task = model.get("task", DEFAULT) if isinstance(model, dict) else None
    if name is None or not isinstance(task, str) or task not in TASKS or name.startswith("float_"):
        return
    known = metric_names(task)
    if name not in known:
        problem = f"a run of {task} has no such metric"
        raise UserError(problem, key=key, value=name, hint=nearest(name, known))
