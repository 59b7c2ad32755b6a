"""What a search is, settled before its first trial: knobs, rungs, the values that come first; and its folder."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from distill.config.files import load, long_form
from distill.core.utils.errors import UserError
from distill.core.utils.extras import require
from distill.core.utils.json_file import number_at
from distill.core.utils.secrets import HIDDEN
from distill.export.targets import find_target
from distill.run.folder import Run
from distill.run.listing import read_json
from distill.run.run_id import new_id
from distill.workflows.job.build import Job, build, judge, make_trainer
from distill.workflows.job.length import steps_of
from distill.workflows.report.rule import Rule
from distill.workflows.search.found import find
from distill.workflows.search.knobs import Knob, bounded
from distill.workflows.search.measured import Minimize
from distill.workflows.search.rungs import lengths, read_rungs
from distill.workflows.search.seeds import scan, seeds
from distill.workflows.search.target import check_rule, check_teacher, read_target
from distill.workflows.trials.recipe import Recipe
from distill.workflows.trials.trial import check_metric, root_of

__all__ = ["Asked", "Plan", "asked_before", "plan"]

_WHEN = ("begin", "end", "observe", "freeze_observers", "freeze")
"""Arguments of callbacks that are moments of a run."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What the user asked for, besides the recipe.

    Attributes:
        target: The rule that a student must meet.
        minimize: What is to be as small as possible.
        rungs: Shares of the recipe's length, as text.
        knobs: Bounds, as text.
        sampler: ``tpe`` or ``random``.
        seed: Of the search.
        to: The format that is measured; by the recipe if not given.
    """

    target: str
    minimize: Minimize = "bytes"
    rungs: str = "0.11,0.33,1"
    knobs: tuple[str, ...] = ()
    sampler: str = "tpe"
    seed: int = 0
    to: str | None = None

    def record(self) -> dict[str, Any]:
        """As JSON holds it."""
        return {**asdict(self), "knobs": list(self.knobs)}


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A search, before its first trial or after.

    Attributes:
        folder: Where its runs lie, and what it writes.
        asked: By the user.
        recipe: Of all trials.
        rule: The target.
        to: The format that is measured.
        knobs: What the trials differ in.
        steps: Of each rung.
        given: Values of the first trials.
        scanned: What a scan of groups of layers found: the group, the level, nats.
        left: What is left as the recipe has it, and why.
        monitor: The metric by which the best student of a run is chosen.
    """

    folder: Path
    asked: Asked
    recipe: Recipe
    rule: Rule
    to: str
    knobs: Sequence[Knob]
    steps: Sequence[int]
    given: Sequence[Mapping[str, Any]]
    scanned: Sequence[Mapping[str, Any]]
    left: Sequence[str]
    monitor: str

    @property
    def record_file(self) -> Path:
        """Everything that is known of the search."""
        return self.folder / "search.json"

    def record(self) -> dict[str, Any]:
        """What of it stays the same, as JSON holds it."""
        return {
            "recipe": self.recipe.recorded(),
            "asked": self.asked.record(),
            "to": self.to,
            "knobs": [knob.record() for knob in self.knobs],
            "steps": list(self.steps),
            "given": [dict(one) for one in self.given],
            "scanned": list(self.scanned),
            "left": list(self.left),
            "monitor": self.monitor,
        }


def plan(recipe: Recipe, asked: Asked) -> Plan:
    """Settle a search, or read the one that is there and asked for the same.

    Args:
        recipe: As of ``distill fit``.
        asked: The rest.

    Raises:
        UserError: for whatever is wrong with it. Nothing was written.
    """
    require("search", "distill search")
    rule, shares = read_target(asked.target), read_rungs(asked.rungs)
    config = load(recipe.files, recipe.overrides)
    check_teacher(rule, config)
    check_metric(rule.figure, config, "--target")
    if asked.to is not None:
        find_target(asked.to)
    folder = _folder(config, named="name" in dict(recipe.overrides))
    before = read_json(folder / "search.json")
    if any(before):
        return _known(folder, recipe, asked, rule, *before)
    if folder.exists() and any(folder.iterdir()):
        hint = "choose another by --name, or remove it"
        raise UserError("is there, and is no search's", key="name", value=str(folder), hint=hint)
    Run.plan(folder.parent, folder.name, new_id())
    judge(long_form(config), recipe.allow)
    job = build(config | {"name": folder.name}, allow=recipe.allow)
    task = job.module.task
    check_rule(rule, sorted(task.metrics()), task.monitor, task.mode)
    to = _target(asked, job)
    found = find(job, asked.minimize)
    knobs = bounded(found.knobs, asked.knobs)
    _refuse_none(knobs, found.left)
    steps = lengths(shares, steps_of(job.data, make_trainer(job)))
    _refuse_moments(job, steps)
    points = scan(job, knobs, found.groups) if asked.sampler != "random" else []
    given = seeds(knobs, points) if asked.sampler != "random" else []
    return Plan(
        folder=folder,
        asked=asked,
        recipe=recipe,
        rule=rule,
        to=to,
        knobs=knobs,
        steps=steps,
        given=given,
        scanned=[{"knob": one.layer, "level": one.level, "nats": one.divergence} for one in points],
        left=found.left,
        monitor=task.monitor,
    )


def _folder(config: Mapping[str, Any], *, named: bool) -> Path:
    name = config.get("name")
    if not isinstance(name, str):
        raise UserError("must be a text", key="name", value=name, hint="give a name")
    return root_of(config) / (name if named else f"{name}-search")


def _target(asked: Asked, job: Job) -> str:
    """The format that is measured: integers of a student that is quantized.

    Raises:
        UserError: if there is no such format, or it is not timed and its latency asked for.
    """
    rounds = any(type(callback).__name__ == "QuantizationAwareTraining" for callback in job.callbacks)
    to = asked.to or ("onnx-int8" if rounds else "onnx")
    kind = find_target(to)
    if asked.minimize == "latency" and kind.onnx is None:
        problem, hint = f"{to} is not timed by its export", "take --to onnx or onnx-int8"
        raise UserError(problem, key="--minimize", value=asked.minimize, hint=hint)
    return to


def _refuse_none(knobs: Sequence[Knob], left: Sequence[str]) -> None:
    if any(not knob.fixed for knob in knobs):
        return
    why = f" ({'; '.join(left)})" if left else ""
    hint = (
        "name callbacks (StructuredPruning, LowRank, QuantizationAwareTraining), num_layers or several losses in it, "
        "or a key: --knob model.optimizer.lr=1e-4..1e-3"
    )
    raise UserError(f"the recipe leaves nothing to search{why}", key="-c", hint=hint)


def _refuse_moments(job: Job, steps: Sequence[int]) -> None:
    """Refuse moments that are numbers of steps: a rung is a run with another number of these."""
    if len(steps) == 1:
        return
    for place, callback in enumerate(job.config["callbacks"]):
        for name in _WHEN:
            value = (callback.get("init_args") or {}).get(name)
            if isinstance(value, int) and not isinstance(value, bool) and value:
                problem = f"is a step, and the rungs of the search have {', '.join(map(str, steps))} of them"
                hint = "give a fraction of the run (0.3), or --rungs 1"
                raise UserError(problem, key=f"callbacks.{place}.{name}", value=value, hint=hint)


# ---------------------------------------------------------------------- a search that is there


def _known(folder: Path, recipe: Recipe, asked: Asked, rule: Rule, old: Mapping[str, Any], broken: str | None) -> Plan:
    hint = f"choose another name by --name, or remove {folder}"
    file = folder / "search.json"
    if broken:
        raise UserError(f"{broken}, so what was searched is not known", key=file.name, value=str(file), hint=hint)
    fresh = {"recipe": recipe.recorded(), **asked.record()}
    made = {"recipe": old.get("recipe"), **(old["asked"] if isinstance(old.get("asked"), dict) else {})}
    for key, value in fresh.items():
        if made.get(key) != value:
            problem = f"the search of this name was begun with another one ({json.dumps(made.get(key))})"
            shown = json.dumps(value)
            raise UserError(problem, key="-c" if key == "recipe" else f"--{key.rstrip('s')}", value=shown, hint=hint)
    try:
        return Plan(
            folder=folder,
            asked=asked,
            recipe=recipe,
            rule=rule,
            to=str(old["to"]),
            knobs=[Knob.of(one) for one in old["knobs"]],
            steps=[int(one) for one in old["steps"]],
            given=old["given"],
            scanned=old["scanned"],
            left=old["left"],
            monitor=str(old["monitor"]),
        )
    except (KeyError, TypeError, ValueError, AttributeError):
        raise UserError("is not what a search writes", key=file.name, value=str(file), hint=hint) from None


def asked_before(folder: Path) -> tuple[Recipe, Asked, int]:
    """The recipe and the wishes of the search in this folder (``--resume``), and how many trials it was to have.

    Raises:
        UserError: if there is none, or its recipe had secrets, which are not written down.
    """
    old, broken = read_json(folder / "search.json")
    if broken or not old:
        problem, hint = broken or "is no search's folder: it has no search.json", "name runs/NAME of a search"
        raise UserError(problem, key="--resume", value=str(folder), hint=hint)
    try:
        common, asked = old["recipe"], dict(old["asked"])
        recipe = Recipe(
            files=tuple(common["files"]), allow=tuple(common["allow"]), overrides=tuple(common["overrides"].items())
        )
        found = Asked(**asked | {"knobs": tuple(asked["knobs"])})
    except (KeyError, TypeError, AttributeError):
        hint = "give the whole command again"
        raise UserError("is not what a search writes", key="--resume", value=str(folder), hint=hint) from None
    if HIDDEN in json.dumps(common):
        problem, hint = "had secrets in its command, which are not written down", "give the whole command again"
        raise UserError(problem, key="--resume", value=str(folder), hint=hint)
    return recipe, found, int(number_at(old, "wanted") or 1)
