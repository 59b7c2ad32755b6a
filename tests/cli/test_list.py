"""What ``distill list`` promises: what the classes themselves say, without importing them."""

from __future__ import annotations

import inspect
import subprocess
import sys
from typing import Any

import pytest
from pytorch_lightning import Callback

import distill.callbacks
import distill.core.schedules
import distill.losses
from distill.cli.list import KINDS
from distill.core.schedules import Schedule
from distill.export.targets import TARGETS
from distill.losses import DistillationLoss
from distill.tasks import TASKS
from distill.workflows.job.reference import Entry, catalogue

LISTED = catalogue()


def classes(module: Any, base: type) -> dict[str, type]:
    """The classes of ``module`` that can be made, asked of Python."""
    found = {name: getattr(module, name) for name in module.__all__}
    return {n: c for n, c in found.items() if inspect.isclass(c) and issubclass(c, base) and not inspect.isabstract(c)}


@pytest.mark.parametrize(
    ("kind", "module", "base"),
    [
        ("losses", distill.losses, DistillationLoss),
        ("schedules", distill.core.schedules, Schedule),
        ("callbacks", distill.callbacks, Callback),
    ],
)
def test_every_class_is_listed_with_its_own_words_and_arguments(kind: str, module: Any, base: type) -> None:
    expected = classes(module, base)
    assert [entry.name for entry in LISTED[kind]] == sorted(expected)
    for entry in LISTED[kind]:
        cls = expected[entry.name]
        assert " ".join((inspect.getdoc(cls) or "").split("\n\n")[0].split()) == " ".join(entry.summary.split())
        if not entry.defaults.startswith("as "):  # a class of Lightning's, whose arguments are its own
            check_arguments(entry, cls)


STARS = {inspect.Parameter.VAR_POSITIONAL: "*", inspect.Parameter.VAR_KEYWORD: "**"}


def check_arguments(entry: Entry, cls: type) -> None:
    for parameter in inspect.signature(cls).parameters.values():
        if parameter.default is inspect.Parameter.empty:
            assert STARS.get(parameter.kind, "") + parameter.name in entry.defaults.split(", ")
        elif isinstance(parameter.default, (int, float, str, type(None))):
            assert f"{parameter.name}={parameter.default!r}" in entry.defaults
        else:
            assert f"{parameter.name}={type(parameter.default).__name__}(" in entry.defaults


def test_the_kinds_that_the_help_names_are_those_there_are() -> None:
    assert tuple(LISTED) == KINDS


def test_every_task_is_listed_by_its_name() -> None:
    assert [entry.name for entry in LISTED["tasks"]] == list(TASKS)
    for entry, task in zip(LISTED["tasks"], TASKS.values(), strict=True):
        monitor = inspect.getattr_static(task, "monitor")
        assert ("best by" in entry.defaults) == isinstance(monitor, str)
        assert all(column in entry.defaults for column in getattr(task, "columns", {}))


def test_listing_imports_nothing_heavy() -> None:
    code = (
        "import sys; from distill.cli.main import main; main(['list']); "
        "sys.exit(len({'torch', 'transformers', 'pytorch_lightning', 'datasets', 'numpy'} & sys.modules.keys()))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, stdout=subprocess.DEVNULL).returncode == 0


def test_every_export_target_is_listed_with_what_to_type() -> None:
    assert [(entry.name, entry.defaults) for entry in LISTED["targets"]] == [
        (name, f"distill export RUN --to {name}") for name in TARGETS
    ]
