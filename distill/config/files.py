"""The configuration of a run: YAML files merged in order, then ``--key value`` overrides, into one mapping.

Nothing here imports a class or judges a value; :mod:`distill.workflows.job.sections` does. Light.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from distill.config.argument_names import refuse_unknown
from distill.config.header import refuse_old
from distill.config.known_keys import instead
from distill.config.yaml import dump, parse_value, parse_yaml, read_yaml
from distill.core.utils.errors import UserError, nearest
from distill.core.utils.paths import RECIPES, at_home, check_path
from distill.core.utils.words import amount

__all__ = [
    "SECTIONS",
    "apply_override",
    "class_spec",
    "dump",
    "find_file",
    "given_names",
    "load",
    "merge",
    "parse_value",
    "parse_yaml",
    "read_file",
    "recipes",
]

SECTIONS = ("name", "runs", "seed", "model", "data", "trainer", "callbacks", "logging")
"""The keys at the top of a configuration."""

SPEC = frozenset({"class_path", "init_args", "dict_kwargs"})
"""The keys of a mapping that names a class."""

# Places where a text that is looked into (``--model.student.depth 3``) is the path of a model, not a class.
_PATHS = frozenset({"model.student", "model.teacher"})


# ---------------------------------------------------------------------- files


def recipes() -> dict[str, Path]:
    """The recipes shipped with the package, by name (``quickstart/alone``)."""
    found = RECIPES.rglob("*.yaml")
    return {path.relative_to(RECIPES).with_suffix("").as_posix(): path for path in sorted(found)}


def find_file(name: str) -> Path:
    """The file that ``-c NAME`` means: a path, a run's folder, or a shipped recipe.

    Raises:
        UserError: if there is none, or it is a run of 0.1.
    """
    check_path(name, "--config")
    path = at_home(name)
    if path.is_file():
        return path
    if (path / "config.yaml").is_file():
        refuse_old(path / "config.yaml", "--config")
        return path / "config.yaml"
    if path.is_dir():
        inside = sorted(str(each) for each in path.glob("*.y*ml"))
        hint = f"name one of its files: {', '.join(inside[:3])}" if inside else "give the path of a YAML file"
        raise UserError("is a folder, and no run's: it has no config.yaml", key="--config", value=name, hint=hint)
    shipped = recipes()
    # `configs/quickstart/alone.yaml` is how the repository calls it; it works from everywhere.
    short = name.removeprefix("distill:").removeprefix("configs/").removesuffix(".yaml")
    if short in shipped:
        return shipped[short]
    local = (str(p) for p in path.parent.glob("*.y*ml")) if path.parent.is_dir() else ()
    hint = nearest(name, [*shipped, *local]) if shipped or local else "give the path of a YAML file"
    raise UserError("no such file, and no recipe of this name", key="--config", value=name, hint=hint)


def given_names(files: Sequence[str], overrides: Sequence[Any] = ()) -> str:
    """What a run was given, in words that name no place: ``text-classification/distill, reviews.yaml, 2 more keys``.

    Args:
        files: As the user named them: recipes, files, runs.
        overrides: Of single keys.
    """
    names = []
    for path in map(find_file, files):
        own = path.parent.parent.name if path.name == "config.yaml" else ""
        shipped = path.is_relative_to(RECIPES)
        run = f"the run {own}" if own else path.name
        names.append(path.relative_to(RECIPES).with_suffix("").as_posix() if shipped else run)
    count = len(overrides)
    more = [amount(count, f"{'more ' if names else ''}key")] if count else []
    return ", ".join([*names, *more])


def read_file(path: Path) -> dict[str, Any]:
    """One file's mapping, with ``data`` in its long form.

    Raises:
        UserError: if it cannot be read, is no YAML, or holds no mapping.
    """
    content = read_yaml(path, "--config")
    if content is None:
        return {}
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise UserError("must hold a mapping of keys to values", key=str(path), hint=f"known are {', '.join(SECTIONS)}")
    return long_form(content)


def long_form(config: Mapping[str, Any]) -> dict[str, Any]:
    """``config`` with ``data`` written with ``init_args``."""
    config = dict(config)
    data = config.get("data")
    if isinstance(data, str):
        config["data"] = {"class_path": data}
    elif isinstance(data, dict) and not SPEC & data.keys():
        config["data"] = {"init_args": data}
    return config


def load(files: Sequence[str], overrides: Iterable[tuple[str, str]] = ()) -> dict[str, Any]:
    """Merge ``files`` in order and apply ``overrides`` (dotted key, YAML text) to the result.

    The run is named after the first file, unless a file or an override gives ``name``. The least length that a shipped
    recipe gives goes where the user says when the run ends.

    Raises:
        UserError: if a file, a key or a value cannot be understood.
    """
    config: dict[str, Any] = {}
    given: list[dict[str, Any]] = []
    for path in map(find_file, files):
        config.setdefault("name", path.stem)
        read = read_file(path)
        config = merge(config, read)
        given += [] if path.is_relative_to(RECIPES) else [read]
    typed: dict[str, Any] = {}
    for key, text in overrides:
        value = parse_value(text, f"--{key}")
        apply_override(config, key, value, text)
        if key.startswith("trainer.m"):
            apply_override(typed, key, value, text)
    _drop_least(config, [*given, typed])
    config = long_form(config)
    refuse_unknown(config)
    return config


def _drop_least(config: dict[str, Any], given: Iterable[Mapping[str, Any]]) -> None:
    """Take ``min_epochs`` and ``min_steps`` out of the trainer where only its end was ``given`` by the user."""
    keys = {key for part in given if isinstance(part.get("trainer"), dict) for key in part["trainer"]}
    if {"max_steps", "max_epochs"} & keys and isinstance(config.get("trainer"), dict):
        for key in {"min_steps", "min_epochs"} - keys:
            config["trainer"].pop(key, None)


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """``base`` with ``over`` on top: mappings are merged, everything else is replaced.

    Where ``over`` names another class, the arguments of the former class go with it.
    """
    if "class_path" in over and "class_path" in base and over["class_path"] != base["class_path"]:
        return copy.deepcopy(dict(over))
    merged = dict(base)
    for key, value in over.items():
        below = merged.get(key)
        if isinstance(below, dict) and isinstance(value, dict):
            merged[key] = merge(below, value)
        else:
            merged[key] = copy.deepcopy(value)
    return merged


# ---------------------------------------------------------------------- overrides


def class_spec(value: Any) -> bool:
    """Whether ``value`` is a mapping that names a class or its arguments."""
    return isinstance(value, dict) and bool({"class_path", "init_args"} & value.keys())


def apply_override(config: dict[str, Any], key: str, value: Any, text: str | None = None) -> None:
    """Set ``key`` (``model.losses.0.weight``; ``init_args`` may be left out) in ``config``.

    Args:
        config: Changed in place.
        key: Dotted.
        value: Its new value.
        text: How that was typed, for the message.

    Raises:
        UserError: if the key leads nowhere.
    """
    parts = key.split(".")
    if not all(parts):
        raise UserError("is no key", key=f"--{key}", hint="write it as in the YAML: --model.student.path FOLDER")
    if parts[0] not in SECTIONS:
        model = config.get("model")
        losses = model.get("losses") if isinstance(model, dict) else None
        if hint := instead(parts[-1], value if text is None else text, losses):
            raise UserError("no such key", key=key, value=value, hint=hint)
    here: Any = config
    for depth, part in enumerate(parts):
        following = value if depth == len(parts) - 1 else None
        here = _step(here, part, ".".join(parts[:depth]), following, last=depth == len(parts) - 1)


def _step(here: Any, part: str, path: str, value: Any, *, last: bool) -> Any:
    """Go to ``part`` of ``here``, which stands at ``path``, or set it if it is the ``last``."""
    if class_spec(here) and part not in SPEC:
        given = here.get("init_args")
        if given is not None and not isinstance(given, dict):
            problem = "must be a mapping of arguments to values"
            raise UserError(problem, key=f"{path}.init_args", value=given, hint="write them below it")
        here = _new(here, "init_args") if given is None else given
    elif path == "data" and not here and part not in SPEC:
        here = _new(here, "init_args")
    if isinstance(here, list):
        index = _index(here, part, path)
        if index == len(here):
            here.append({})
        slot: Any = index
    else:
        slot = part
    below = here[slot] if isinstance(here, list) else here.get(slot)
    if last:
        here[slot] = merge(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
        return None
    if not isinstance(below, (dict, list)):
        here[slot] = _opened(below, f"{path}.{part}".lstrip("."))
    return here[slot]


def _new(here: dict[str, Any], key: str) -> dict[str, Any]:
    here[key] = {}
    return here[key]  # type: ignore[no-any-return]


def _index(here: list[Any], part: str, path: str) -> int:
    """``part`` as a position in the list ``here``, or the class of one of its items; ``+`` is one past the end."""
    if part == "+":
        return len(here)
    named = [place for place, item in enumerate(here) if _class_name(item) == part]
    if len(named) == 1:
        return named[0]
    if not part.isdecimal() or len(part) > 9 or int(part) > len(here):
        problem = f"is a list of {len(here)}; give a position from 0 to {len(here)}"
        raise UserError(problem, key=f"--{path}.{part}", hint=f"--{path}.0 is the first")
    return int(part)


def _class_name(item: Any) -> str:
    """The own name of the class that an item of a list names, as messages say it."""
    path = item.get("class_path") if isinstance(item, dict) else item
    return path.rsplit(".", 1)[-1] if isinstance(path, str) else ""


def _opened(below: Any, path: str) -> Any:
    """What stands at ``path`` as something with keys: a bare name as the class or model it names."""
    if path in ("model.losses", "callbacks") and below is None:
        return []
    if isinstance(below, str):
        return {"path": below} if path in _PATHS else {"class_path": below, "init_args": {}}
    if below is None:
        return {}
    raise UserError("holds no keys", key=f"--{path}", value=below, hint="set the key itself")


def split_override(token: str, rest: Sequence[str]) -> tuple[tuple[str, str], int]:
    """The override that ``token`` begins, and how many tokens of ``rest`` belong to it.

    Raises:
        UserError: if it has no value.
    """
    name, equals, value = token.removeprefix("--").partition("=")
    if equals:
        return (name, value), 0
    if not rest or (rest[0].startswith("--") and len(rest[0]) > 2):
        if "." not in name and (hint := instead(name)):
            raise UserError("no such option", key=f"--{name}", hint=hint)
        if name.partition(".")[0] not in SECTIONS:
            raise UserError("no such option", key=f"--{name}", hint=nearest(name, SECTIONS))
        raise UserError("needs a value", key=f"--{name}", hint=f"write --{name}=VALUE")
    return (name, rest[0]), 1
