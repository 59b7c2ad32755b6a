"""Which tasks are meant, and that a task file of somebody else's runs no code that was not allowed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from distill.core.utils.errors import UserError, first_line
from distill.core.utils.paths import find_local

__all__ = ["KEY", "Chosen", "choose"]

KEY = "--tasks"

_ENDINGS = (".yaml", ".yml")


@dataclass
class Chosen:
    """The tasks that were asked for.

    Attributes:
        names: Of lm_eval's own tasks and groups.
        bare: Local folders and files that are named like one, by that name.
        files: Task files, each checked.
        folders: Where groups among them find their tasks.
        groups: Whether a group is among the files, whose tasks may be lm_eval's own.
    """

    names: list[str] = field(default_factory=list)
    bare: list[str] = field(default_factory=list)
    files: list[Path] = field(default_factory=list)
    folders: list[Path] = field(default_factory=list)
    groups: bool = False


def choose(given: Sequence[str], allow: Sequence[str], metrics: Sequence[str], generation: Sequence[str]) -> Chosen:
    """What was asked for, with every file of it read and judged, and none of its code run.

    A task file can run code in four ways: Python that it names by ``!function`` must be of an allowed module; a metric
    that is not lm_eval's own would be fetched and run, data of pandas unpickled, and a setting of generation can load a
    model's own code: these are refused. (Its templates are rendered in a sandbox, by
    :mod:`~distill.workflows.benchmark.harness`.)

    Args:
        given: Names of tasks, task files, and folders of them.
        allow: Modules whose functions they may name.
        metrics: That lm_eval knows.
        generation: Settings that a task may give for writing.

    Raises:
        UserError: if one is not there, is no task, or names code that is not allowed.
    """
    chosen, judge = Chosen(), _Judge(tuple(allow), frozenset(metrics), frozenset(generation))
    for item in given:
        local = find_local(item) if item else None
        if local is not None and item.replace("_", "").replace("-", "").isalnum():
            chosen.bare.append(item)
        if local is not None and local.is_dir():
            _take_folder(local, judge, chosen)
        elif local is not None:
            if local.suffix not in _ENDINGS:
                raise UserError("is no task file", key=KEY, value=item, hint="name a .yaml that lm_eval reads")
            config = judge.read(local)
            if not ({"task", "group"} & config.keys()):
                raise UserError("names no task", key=KEY, value=item, hint="give it a line `task: NAME`")
            chosen.groups |= "group" in config
            chosen.files.append(local)
        elif not item or "/" in item or item.endswith(_ENDINGS):
            raise UserError("no such file or folder", key=KEY, value=item, hint="name a task, or a file that is there")
        else:
            chosen.names.append(item)
    return chosen


def _take_folder(folder: Path, judge: _Judge, chosen: Chosen) -> None:
    """The groups of a folder, and the tasks that are in none of them; what is below it is for groups to name."""
    configs = {path: judge.read(path) for path in sorted(folder.rglob("*.yaml"))}
    here = {path: config for path, config in configs.items() if path.parent == folder}
    grouped = {name for config in here.values() if "group" in config for name in _members(config)}
    files = [
        path
        for path, config in here.items()
        if "group" in config or ("task" in config and config["task"] not in grouped)
    ]
    if not files:
        raise UserError("holds no task file", key=KEY, value=str(folder), hint="name a folder of .yaml with `task:`")
    chosen.files += files
    chosen.folders.append(folder)
    chosen.groups |= bool(grouped)


def _members(config: Mapping[str, Any]) -> Iterator[str]:
    tasks = config.get("task")
    for task in tasks if isinstance(tasks, list) else [tasks]:
        name = task.get("task") if isinstance(task, dict) else task
        if isinstance(name, str):
            yield name


class _Code(str):
    """What ``!function`` names: a module's path and a function in it."""


class _Loader(yaml.SafeLoader):
    """Reads a task file without importing what it names."""


def _named(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> _Code:
    return _Code(loader.construct_scalar(node))


_Loader.add_constructor("!function", _named)


@dataclass(frozen=True)
class _Judge:
    allow: tuple[str, ...]
    metrics: frozenset[str]
    generation: frozenset[str]

    def read(self, path: Path, seen: frozenset[Path] = frozenset()) -> dict[str, Any]:
        """What a file says, with the files that it includes; refused if it names code."""
        try:
            config: Any = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
        except FileNotFoundError as error:
            raise UserError("no such file", key=KEY, value=str(path), hint="it is included by another") from error
        except (OSError, ValueError, yaml.YAMLError) as error:
            problem = f"is no task file ({first_line(error)})"
            raise UserError(problem, key=KEY, value=str(path), hint="correct it") from error
        if not isinstance(config, dict) or path.resolve() in seen:
            problem = "is no task file" if not isinstance(config, dict) else "includes itself"
            raise UserError(problem, key=KEY, value=str(path), hint="correct it")
        self._refuse_code(config, path)
        included = config.pop("include", [])
        for name in included if isinstance(included, list) else [included]:
            config = self.read(path.parent / str(name), seen | {path.resolve()}) | config
        return dict(config)

    def _refuse_code(self, value: Any, path: Path) -> None:
        if isinstance(value, _Code):
            module = value.partition(".")[0]
            if module not in self.allow:
                hint = f"if you trust it, give --allow {module}"
                raise UserError(f"names Python code, !function {value}", key=KEY, value=str(path), hint=hint)
        elif isinstance(value, dict):
            self._refuse_settings(value, path)
            for part in value.values():
                self._refuse_code(part, path)
        elif isinstance(value, list):
            for part in value:
                self._refuse_code(part, path)

    def _refuse_settings(self, config: Mapping[str, Any], path: Path) -> None:
        def refuse(problem: str, hint: str) -> None:
            raise UserError(problem, key=KEY, value=str(path), hint=hint)

        for entry in config.get("metric_list") or []:
            name = entry.get("metric") if isinstance(entry, dict) else None
            if isinstance(entry, dict) and entry.get("hf_evaluate"):
                refuse(f"has the metric {name} fetched as code (hf_evaluate)", "take one of lm_eval's own")
            if isinstance(name, str) and not isinstance(name, _Code) and name not in self.metrics:
                refuse(f"lm_eval has no metric {name}", f"take one of {', '.join(sorted(self.metrics)[:8])}, ...")
        if config.get("dataset_path") == "pandas":
            refuse("reads pickles, which can run code (dataset_path: pandas)", "save the data as json, csv or parquet")
        settings = config.get("generation_kwargs")
        for name in settings if isinstance(settings, dict) else {}:
            if name not in self.generation:
                refuse(f"generation_kwargs has no {name}", "leave it out")
