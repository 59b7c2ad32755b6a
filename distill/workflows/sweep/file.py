"""A sweep file, as W&B defines it: what to vary, how, and by which metric. Light: needs nothing but YAML."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distill.config.yaml import read_yaml
from distill.core.utils.errors import UserError, nearest
from distill.core.utils.paths import RECIPES, at_home, check_path
from distill.workflows.trials.recipe import Recipe, parse_recipe

__all__ = ["ARGS", "SweepFile", "find_sweep", "read_sweep"]

ARGS = "${args}"
"""Stands in ``command`` where the agent of W&B puts a trial's parameters."""

METHODS = ("grid", "random")
GOALS = {"maximize": "max", "minimize": "min"}
_OURS = ("name", "method", "metric", "parameters", "run_cap", "command")
_WANDB = ("apiVersion", "description", "entity", "kind", "program", "project")  # mean something to W&B alone
_AGENT = "start it with `wandb sweep FILE` and `wandb agent`"


@dataclass(frozen=True, kw_only=True)
class SweepFile:
    """A sweep file that has been read.

    Attributes:
        name: Of the sweep, and of its runs.
        method: ``grid`` or ``random``.
        parameters: Key of the configuration -> what it is to be, as the file says.
        metric: The metric that the trials are ordered by; ``None`` for that of the task.
        mode: ``max`` or ``min``; ``None`` likewise.
        cap: The most trials; ``None`` for no limit.
        recipe: That of ``command``; ``None`` where there is none.
    """

    name: str
    method: str
    parameters: Mapping[str, Mapping[str, Any]]
    metric: str | None = None
    mode: str | None = None
    cap: int | None = None
    recipe: Recipe | None = None


def find_sweep(name: str) -> Path:
    """The file of this path, or the shipped one of this name (``sweeps/sst2-hinton``).

    Raises:
        UserError: if there is none.
    """
    check_path(name, "FILE")
    path = at_home(name)
    if path.is_file():
        return path
    shipped = {p.relative_to(RECIPES).with_suffix("").as_posix(): p for p in RECIPES.glob("sweeps/*.yml")}
    if name not in shipped:
        raise UserError("no such file, and no sweep of this name", key="FILE", value=name, hint=nearest(name, shipped))
    return shipped[name]


def read_sweep(path: Path) -> SweepFile:
    """Read and judge a sweep file.

    Raises:
        UserError: naming the key at fault.
    """
    content = read_yaml(path, "FILE")
    if not isinstance(content, dict):
        raise UserError("must hold a mapping", key=str(path), hint=f"known are {', '.join(_OURS)}")
    for key in content:
        if key == "early_terminate":
            raise UserError("needs W&B's server", key=key, hint=f"leave it out, or {_AGENT}")
        if key not in (*_OURS, *_WANDB):
            raise UserError("no such key in a sweep file", key=str(key), hint=nearest(str(key), _OURS))
    metric, mode = _metric(content.get("metric"))
    cap = content.get("run_cap")
    if cap is not None and (not isinstance(cap, int) or isinstance(cap, bool) or cap < 1):
        raise UserError("must be an integer above 0", key="run_cap", value=cap, hint="say how many trials at most")
    return SweepFile(
        name=str(content.get("name", path.stem)),
        method=_method(content.get("method")),
        parameters=_parameters(content.get("parameters")),
        metric=metric,
        mode=mode,
        cap=cap,
        recipe=_recipe(content["command"]) if "command" in content else None,
    )


def _method(method: Any) -> str:
    if method == "bayes":
        raise UserError("needs W&B's server", key="method", value=method, hint=f"{_AGENT}, or say grid or random")
    if method not in METHODS:
        raise UserError("must be grid or random", key="method", value=method, hint="add `method: grid`")
    return str(method)


def _metric(metric: Any) -> tuple[str | None, str | None]:
    """Its name without ``val/``, and which direction is better."""
    if metric is None:
        return None, None
    if not isinstance(metric, dict) or not isinstance(metric.get("name"), str) or set(metric) - {"name", "goal"}:
        problem = "must hold name and goal"
        raise UserError(problem, key="metric", value=metric, hint="metric: {name: val/accuracy, goal: maximize}")
    goal = metric.get("goal")
    if not isinstance(goal, str) or goal not in GOALS:
        raise UserError("must be maximize or minimize", key="metric.goal", value=goal, hint="say which is better")
    return metric["name"].removeprefix("val/"), GOALS[goal]


def _parameters(parameters: Any) -> dict[str, dict[str, Any]]:
    if not isinstance(parameters, dict) or not parameters:
        hint = "parameters: {model.optimizer.lr: {values: [1e-4, 2e-4]}}"
        raise UserError("must hold a key and what to try for it", key="parameters", value=parameters, hint=hint)
    for key, given in parameters.items():
        if not isinstance(key, str):
            hint = "write it as for distill fit: model.optimizer.lr"
            raise UserError("is no key", key="parameters", value=key, hint=hint)
        if key in ("name", "runs"):
            raise UserError("is the same for all trials", key=f"parameters.{key}", hint="leave it out")
        if not isinstance(given, dict):
            hint = f"write {{value: {given}}} or {{values: [...]}}"
            raise UserError(
                "must say value, values, or a distribution", key=f"parameters.{key}", value=given, hint=hint
            )
    return parameters


def _recipe(command: Any) -> Recipe:
    """What of ``distill fit -c RECIPE ... ${args}`` is the same for every trial."""
    words = [str(word) for word in command] if isinstance(command, list) else []
    if words[:1] == ["${env}"]:
        words = words[1:]
    if words[:2] != ["distill", "fit"] or words.count(ARGS) != 1:
        hint = 'command: [distill, fit, -c, sst2/hinton, "${args}"]'
        raise UserError("must be distill fit, its arguments and ${args}", key="command", value=command, hint=hint)
    return parse_recipe([word for word in words[2:] if word != ARGS])
