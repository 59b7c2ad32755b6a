"""Keys of a configuration that no class takes, found without importing the classes. Light.

What a class takes is read off its source; only then, after seconds of imports, are values judged
(:mod:`distill.workflows.job.sections`). What cannot be read here is left to that.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from distill.config.known_keys import known_as
from distill.core.utils.errors import UserError

__all__ = ["TRAINER_SKIPPED", "arguments_of", "refuse_skipped", "refuse_unknown"]

_CLASSES = {
    "model": ("distill", "training/module.py", "Distillation"),
    "model.student": ("distill", "models/students/config.py", "StudentConfig"),
    "model.teacher": ("distill", "models/teachers/build.py", "TeacherConfig"),
    "model.optimizer": ("distill", "training/optimizer.py", "OptimizerConfig"),
    "trainer": ("pytorch_lightning", "trainer/trainer.py", "Trainer"),
    "logging": ("distill", "run/loggers/config.py", "LoggingConfig"),
    "logging.wandb": ("distill", "run/loggers/config.py", "WandbConfig"),
}
"""Section -> the package, the file in it, and the class that takes its keys."""

TRAINER_SKIPPED = {
    "callbacks": "write callbacks at the top level",
    "logger": "write logging at the top level",
    "default_root_dir": "write runs at the top level",
    "fast_dev_run": "use --dry-run",
    "limit_predict_batches": "leave it out: nothing is predicted",
    "barebones": "leave it out",
    "enable_model_summary": "use --dry-run",
    "enable_autolog_hparams": "leave it out",
    "model_registry": "leave it out",
    "use_distributed_sampler": "the data takes care of ranks",
}
"""Arguments of the Trainer that are given elsewhere -> where."""


def refuse_skipped(trainer: Mapping[str, Any]) -> None:
    """Refuse arguments of the Trainer that are given elsewhere.

    Raises:
        UserError: saying where.
    """
    for key in trainer:
        if key in TRAINER_SKIPPED:
            raise UserError("cannot be given here", key=f"trainer.{key}", value=trainer[key], hint=TRAINER_SKIPPED[key])


def refuse_unknown(config: Mapping[str, Any]) -> None:
    """Refuse keys that the classes of a configuration's sections do not take.

    Raises:
        UserError: naming the first, and what was meant.
    """
    if isinstance(config.get("trainer"), Mapping):
        refuse_skipped(config["trainer"])
    for section, (package, file, name) in _CLASSES.items():
        given: Any = config
        for part in section.split("."):
            given = given.get(part) if isinstance(given, Mapping) else None
        known = arguments_of(package, file, name) if isinstance(given, Mapping) else ()
        for key, value in given.items() if known and "class_path" not in given else ():
            if key not in known:
                hint = known_as(str(key), value, section, [one for one in known if one not in TRAINER_SKIPPED])
                raise UserError(f"{name} has no {key!r}", key=f"{section}.{key}", value=value, hint=hint)


@cache
def arguments_of(package: str, file: str, name: str) -> tuple[str, ...]:
    """The arguments of a class: of its ``__init__``, or the fields of a dataclass; none where they cannot be read."""
    found = find_spec(package)
    place = Path(found.origin).parent / file if found is not None and found.origin else Path()
    if not place.is_file():
        return ()
    tree = ast.parse(place.read_text(encoding="utf-8"))
    of = next((node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name), None)
    body = of.body if of is not None else []
    init = next((node for node in body if isinstance(node, ast.FunctionDef) and node.name == "__init__"), None)
    if init is not None:
        return tuple(each.arg for each in (*init.args.args[1:], *init.args.kwonlyargs))
    return tuple(n.target.id for n in body if isinstance(n, ast.AnnAssign) and isinstance(n.target, ast.Name))
