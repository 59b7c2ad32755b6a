"""Runs side by side: where their configurations differ, and what came of them. Light: no torch."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from distill.config.diff import MISSING, config_diff
from distill.config.files import class_spec
from distill.core.retention import kept_of, percent
from distill.core.utils.console import duration, number, plain_table, wide
from distill.core.utils.errors import UserError
from distill.core.utils.json_file import number_at
from distill.core.utils.visible import visible
from distill.run.baseline import read_otherwise
from distill.run.folder import Run
from distill.run.listing import read_json, summary
from distill.run.samples import of_other_samples

__all__ = ["compare"]


def compare(folders: Sequence[str | Path], console: Console | None = None) -> None:
    """Print the keys in which the runs' configurations differ, and their metrics.

    Raises:
        UserError: if there are fewer than two, or one is no run or cannot be read.
    """
    if len(folders) < 2:
        raise UserError("needs two runs or more", key="--compare", hint="distill runs --compare RUN RUN")
    runs = [Run.open(folder, "--compare") for folder in folders]
    titles = [str(folder) for folder in folders]
    results = [read_json(run.result_file)[0] for run in runs]
    # Those that `distill quantize` and `prune` made have the configuration of the run that they were made from.
    more = [{by: result[by] for by in ("prune", "quantize") if by in result} for result in results]
    configs = [run.config | extra for run, extra in zip(runs, more, strict=True)]
    console = console or wide()
    _show_configs(titles, config_diff(*configs), console)
    _show_figures(titles, runs, results, console)


def _show_configs(titles: Sequence[str], different: Mapping[str, Sequence[Any]], console: Console) -> None:
    if not different:
        console.print("their configurations are the same")
        return
    table = plain_table("configurations, where they differ")
    for name in ("", *titles):
        table.add_column(escape(name), overflow="fold")
    for key, values in different.items():
        table.add_row(escape(key), *(escape(_written(value)) for value in values))
    console.print(table)


def _written(value: Any) -> str:
    """A value in one line."""
    if value is MISSING:
        return "-"
    if isinstance(value, str):
        return value
    if isinstance(value, list) and value and all(class_spec(item) and "class_path" in item for item in value):
        return "\n".join(_class(item) for item in value)
    return _class(value) if class_spec(value) and "class_path" in value else json.dumps(value)


def _class(spec: Mapping[str, Any]) -> str:
    """A class and its arguments, as a call of it is written."""
    given = (f"{name}={_written(value)}" for name, value in (spec.get("init_args") or {}).items() if value is not None)
    return f"{str(spec['class_path']).rpartition('.')[2]}({', '.join(given)})"


def _show_figures(
    titles: Sequence[str], runs: Sequence[Run], results: Sequence[Mapping[str, Any]], console: Console
) -> None:
    students, teachers = ([_scores(result, who) for result in results] for who in ("student", "teacher"))
    names = list(dict.fromkeys(name for scores in students for name in scores))
    table = plain_table("metrics")
    table.add_column("", overflow="fold")
    for name in [*names, "kept", "parameters", "compressed", "train time", "step saved"]:
        table.add_column(name, justify="right")
    for title, who, scores in _teachers(titles, results, teachers):
        parameters = _count(number_at(who, "parameters", "teacher"))
        table.add_row(escape(title), *_cells(scores, names), "", parameters, "", "", "")
    for title, run, result, scores in zip(titles, runs, results, students, strict=True):
        if not result:
            table.add_row(escape(f"{title} ({summary(run.folder).state})"))
            continue
        kept = kept_of(result)
        seconds = number_at(result, "train_seconds")
        table.add_row(
            escape(title),
            *_cells(scores, names),
            "" if kept is None else percent(kept),
            _count(number_at(result, "parameters", "student")),
            escape(str(result.get("compressed", ""))),
            "" if seconds is None else duration(seconds),
            _count(number_at(result, "saved_step")),
        )
    console.print(table)
    for title, run, result in zip(titles, runs, results, strict=True):
        if of_other_samples(result, results[0].get("data")):
            keys = ", ".join(read_otherwise(runs[0].config, run.config))
            why = f": not the same {keys}" if keys else ""
            said = f"{title} was scored on other validation samples than {titles[0]}{why}"
            console.print(escape(visible(said)), soft_wrap=True)


def _teachers(
    titles: Sequence[str], results: Sequence[Mapping[str, Any]], scores: Sequence[Mapping[str, float]]
) -> list[tuple[str, Mapping[str, Any], Mapping[str, float]]]:
    """The teachers' rows: one for all runs if they had the same scores, else one for each run."""
    taught = [row for row in zip(titles, results, scores, strict=True) if row[2]]
    if all(row[2] == taught[0][2] for row in taught):
        return [("teacher", result, score) for _, result, score in taught[:1]]
    return [(f"teacher of {title}", result, score) for title, result, score in taught]


def _scores(result: Mapping[str, Any], who: str) -> dict[str, float]:
    scores = result.get("scores")
    found = scores.get(who) if isinstance(scores, dict) else None
    return (
        {name: value for name, value in found.items() if number_at(found, name) is not None}
        if isinstance(found, dict)
        else {}
    )


def _cells(scores: Mapping[str, float], names: Sequence[str]) -> list[str]:
    return [number(scores[name]) if name in scores else "" for name in names]


def _count(value: float | None) -> str:
    return "" if value is None else f"{value:,}"
