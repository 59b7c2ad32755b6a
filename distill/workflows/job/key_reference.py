"""The keys of a configuration, as ``distill fit --help`` lists them: read off the signatures that type them."""

from __future__ import annotations

import inspect
import re
import textwrap
from collections.abc import Iterator

from pytorch_lightning import Trainer

from distill.config.argument_names import TRAINER_SKIPPED
from distill.core.argument_types import describe
from distill.core.internals.jsonargparse import get_signature_parameters
from distill.data import TextData
from distill.models.students import StudentConfig
from distill.models.teachers import TeacherConfig
from distill.run.loggers.config import LoggingConfig, WandbConfig
from distill.training.completions import CompletionsConfig
from distill.training.module import Distillation
from distill.training.optimizer import OptimizerConfig
from distill.workflows.job.explain import class_arguments

__all__ = ["key_reference"]

_INDENT = " " * 6
_TOP = {
    "name": "name of the run; the first file's if not given",
    "runs": "folder of the runs' folders (default: runs)",
    "seed": "of weights, order of samples, dropout (default: 0)",
}
_SECTIONS = (
    ("model", Distillation, {"labels"}),
    ("model.student", StudentConfig, set[str]()),
    ("model.teacher", TeacherConfig, set[str]()),
    ("model.optimizer", OptimizerConfig, set[str]()),
    ("model.completions", CompletionsConfig, set[str]()),
    ("data", TextData, set[str]()),
    ("trainer", Trainer, set(TRAINER_SKIPPED)),
    ("logging", LoggingConfig, set[str]()),
    ("logging.wandb", WandbConfig, set[str]()),
)


def key_reference() -> str:
    """Every key: what type it has and its default, and below that what it is, as its class documents it."""
    lines = [f"  {name:<36} {text}" for name, text in _TOP.items()]
    for section, cls, hidden in _SECTIONS:
        lines += ["", *_section(section, cls, hidden)]
    lines += ["", f"  {'callbacks':<36} a list, each with class_path and init_args"]
    return "\n".join(lines)


def _section(section: str, cls: type, hidden: set[str]) -> Iterator[str]:
    defaults = inspect.signature(cls).parameters
    documented = {parameter.name: parameter.doc or "" for parameter in get_signature_parameters(cls)}
    for name, (kind, required) in class_arguments(cls).items():
        if name in hidden:
            continue
        default = defaults[name].default if name in defaults else None
        plain = isinstance(default, (str, int, float, bool)) and not required and default != ""
        suffix = f" (default: {default})" if plain else " (must be given)" if required else ""
        words = describe(kind).removesuffix(" or null")
        yield f"  {f'{section}.{name}':<36} {words}{suffix}"
        yield textwrap.fill(_plain(documented[name]), 110, initial_indent=_INDENT, subsequent_indent=_INDENT)


def _plain(text: str) -> str:
    """The first sentence of a docstring's entry, without the marks of reStructuredText."""
    sentence = re.split(r"(?<=\.)\s", " ".join(text.split()), maxsplit=1)[0]
    return re.sub(r":\w+:`~?(?:[\w.]+\.)?(\w+)`", r"\1", sentence).replace("`", "")
