"""``distill evaluate``: models on the same tasks, one table with standard errors, kept in the run's folder."""

from __future__ import annotations

import gc
import json
import math
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console

from distill.core.model_spec import parameter_count
from distill.core.utils.console import duration, number, plain_table, wide
from distill.core.utils.errors import UserError
from distill.core.utils.files import make, replace
from distill.core.utils.paths import at_home, check_folder
from distill.core.utils.version import VERSION
from distill.run.run_id import new_id
from distill.workflows.benchmark import harness
from distill.workflows.benchmark.harness import Settings, Taken, load_tasks
from distill.workflows.benchmark.models import Contender, contenders

__all__ = ["EVALUATIONS", "evaluate"]

EVALUATIONS = "evaluations"
"""Where they lie in a run's folder, a file each."""

_ROWS = {"alone": "without a teacher"}


def evaluate(
    model: str,
    tasks: Sequence[str],
    settings: Settings,
    *,
    allow: Sequence[str] = (),
    beside: str | Path | None = None,
    alone: bool = False,
    to: str | Path | None = None,
) -> dict[str, Any]:
    """Score a language model on tasks of lm_eval, and print the table.

    Args:
        model: A run (its teacher and the student without one are scored too), a saved student, or a folder of
            transformers.
        tasks: Names of tasks, task files, and folders of them.
        settings: How they are asked.
        allow: Modules whose functions a task file may name.
        beside: The run of the same student without a teacher; looked for if not given.
        alone: Only the model itself.
        to: A file to write the outcome to as well.

    Returns:
        What is written: ``models``, ``tasks``, and ``scores`` by task, metric and model.

    Raises:
        UserError: for a model or a task that is not right, before any is scored as far as that can be seen.
    """
    target = _target(to)
    run, others, notes = contenders(model, beside, alone)
    if run is not None:
        run.refuse_links()
    asked = load_tasks(tasks, allow, settings)
    print(f"scoring {', '.join(f'{_ROWS.get(one.who, one.who)} ({one.path})' for one in others)}", flush=True)
    taken: dict[str, Taken] = {}
    about: dict[str, dict[str, Any]] = {}
    for one in others:
        taken[one.who], about[one.who] = _scored(asked, one, settings, notes)
        gc.collect()  # one model at a time
    outcome = _outcome(taken, about, tasks, settings)
    _show(outcome, Console() if sys.stdout.isatty() else wide())
    for note in notes:
        print(f"note: {note}")
    written = (json.dumps(outcome, indent=2, allow_nan=False) + "\n").encode()
    if run is not None:
        make(run.folder / EVALUATIONS)
        replace(run.folder / EVALUATIONS / f"{new_id()}.json", written)
        print(f"kept in {Path(run.shown) / EVALUATIONS}")
    if target is not None:
        replace(target, written)
    return outcome


def _target(to: str | Path | None) -> Path | None:
    if to is None:
        return None
    path = at_home(to)
    if path.suffix != ".json":
        raise UserError("must be a .json file", key="--to", value=str(to), hint="write --to scores.json")
    if path.exists():
        raise UserError("is there already", key="--to", value=str(to), hint="remove it, or name another")
    check_folder(path.parent, "--to")
    make(path.parent)
    return path


def _scored(
    asked: harness.Harness, one: Contender, settings: Settings, notes: list[str]
) -> tuple[Taken, dict[str, Any]]:
    began = time.perf_counter()
    model, tokenizer = one.open()
    if not settings.chat_template and getattr(tokenizer, "chat_template", None):
        said = "has a chat template, which was not applied (--chat-template)"
        notes.append(f"the tokenizer of {_ROWS.get(one.who, one.who)} {said}")
    taken = asked.score(model, tokenizer)
    if taken.cut:
        what = f"{taken.cut:,} texts for {_ROWS.get(one.who, one.who)} were longer than {taken.max_length:,} tokens"
        notes.append(f"{what}, and lost their beginning")
    seconds = time.perf_counter() - began
    print(f"{_ROWS.get(one.who, one.who)}: {duration(seconds)}", file=sys.stderr, flush=True)
    return taken, {
        "path": one.path,
        "parameters": parameter_count(model),
        "max_length": taken.max_length,
        "cut": taken.cut,
        "seconds": round(seconds, 1),
    }


def _outcome(
    taken: Mapping[str, Taken], about: Mapping[str, Any], tasks: Sequence[str], settings: Settings
) -> dict[str, Any]:
    one = next(iter(taken.values()))
    scores: dict[str, dict[str, dict[str, Any]]] = {}
    for who, found in taken.items():
        for task, metrics in found.scores.items():
            for metric, (value, error) in metrics.items():
                cell = {"value": _finite(value), "standard_error": _finite(error)}
                scores.setdefault(task, {}).setdefault(metric, {})[who] = cell
    described = {
        task: {
            "version": one.versions.get(task),
            "rows": one.rows.get(task),
            "num_fewshot": one.shots.get(task),
            "higher_is_better": one.higher_is_better[task],
        }
        for task in one.scores
    }
    return {
        "command": shlex.join(["distill", "evaluate", *sys.argv[2:]]) if sys.argv[1:2] == ["evaluate"] else None,
        "lm_eval": harness.VERSION,
        "distill": VERSION,
        "asked": list(tasks),
        "settings": asdict(settings),
        "models": dict(about),
        "tasks": described,
        "scores": scores,
    }


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _show(outcome: Mapping[str, Any], console: Console) -> None:
    table = plain_table(f"lm_eval {outcome['lm_eval']}")
    models = list(outcome["models"])
    for name in ("task", "metric"):
        table.add_column(name, overflow="fold")
    for name in ("rows", "shots", *(_ROWS.get(who, who) for who in models)):
        table.add_column(name, justify="right")
    for task, metrics in outcome["scores"].items():
        about = outcome["tasks"][task]
        for metric, cells in metrics.items():
            up = about["higher_is_better"].get(metric)
            arrow = "" if up is None else " ↑" if up else " ↓"
            known = ["" if about[key] is None else f"{about[key]:,}" for key in ("rows", "num_fewshot")]
            table.add_row(task, metric + arrow, *known, *(_cell(cells.get(who)) for who in models))
    console.print(table)
    if outcome["settings"]["limit"] is not None:
        print("the first rows of each task alone (--limit): not to be compared with published scores")


def _cell(cell: Mapping[str, float | None] | None) -> str:
    if cell is None:
        return ""
    value, error = cell["value"], cell["standard_error"]
    return "not finite" if value is None else number(value) + ("" if error is None else f" ± {error:.2g}")
