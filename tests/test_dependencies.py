"""What is imported is declared, and what is declared is imported."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections import defaultdict
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from distill.core.utils.extras import EXTRAS

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

PLACES = {
    "evaluate": r"distill/(workflows/benchmark/|core/internals/lm_eval\.py)",
    "export": r"distill/export/",
    "lora": r"distill/models/students/adapter\.py",
    "plots": r"distill/core/utils/(plots|svg)\.py",
    "search": r"distill/(core/internals/optuna|workflows/(search/(study|run)|sweep/search))\.py",
    "sweep": r"distill/workflows/sweep/",
    "vision": r"distill/(core/images|tasks/image_classification)\.py",
    "wandb": r"distill/run/loggers/wandb_\w+\.py",
}
"""Extra -> the only files that may import what it brings."""

INDIRECT = {
    "accelerate": "lm_eval's view of a model of transformers needs it",
    "onnxscript": "torch.onnx.export needs it",
    "tensorboard": "torch.utils.tensorboard needs it",
}
"""What is declared though no line imports it, and why."""

UNDECLARED = {
    "sacrebleu": "an oracle that comes with lm_eval",
    "torchao": "measured where it is installed",
    "lightning-utilities": "told which rank a process is, beneath Lightning",
}
"""What a script or a test imports though nothing declares it, and why."""

TOOLS = {"build", "setuptools", "mypy", "pytest-xdist", "ruff", "types-pyyaml", "accelerate"}
"""Of the extras ``test`` and ``bench``: what is run, or needed by what is."""


def canonical(name: str) -> str:
    """A distribution's name as an index compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def declared(lines: list[str]) -> set[str]:
    return {canonical(re.match(r"[\w.-]+", line)[0]) for line in lines}  # type: ignore[index]


BASE = declared(PROJECT["dependencies"])
OF = {extra: declared(lines) for extra, lines in PROJECT["optional-dependencies"].items()}


def tops(path: Path) -> Iterator[str]:
    """The top-level packages that a file imports anywhere."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield (node.module or "").partition(".")[0]


def imported(*folders: str) -> dict[str, set[str]]:
    """Distribution -> the files that import it, standard library and our own left out."""
    known, found = packages_distributions(), defaultdict(set)
    beside = {path.stem for folder in {"tests", "scripts"} & set(folders) for path in (ROOT / folder).rglob("*")}
    for folder in folders:
        for path in sorted((ROOT / folder).rglob("*.py")):  # links to folders are not followed
            for name in set(tops(path)) - sys.stdlib_module_names - beside - {"distill", "examples"}:
                found[canonical(known.get(name, [name])[0])].add(path.relative_to(ROOT).as_posix())
    return found


@pytest.fixture(scope="module")
def shipped() -> dict[str, set[str]]:
    return {
        name: {f for f in files if not f.startswith("distill/callbacks")}
        for name, files in imported("distill", "callbacks").items()
    }


def test_all_that_is_imported_is_declared_and_nothing_else(shipped: dict[str, set[str]]) -> None:
    extras = set().union(*(OF[extra] for extra in EXTRAS))
    assert BASE & extras == set()
    assert shipped.keys() | INDIRECT.keys() == BASE | extras
    assert shipped.keys() & INDIRECT.keys() == set(), "no longer indirect"


@pytest.mark.parametrize("extra", PLACES)
def test_what_an_extra_brings_is_imported_only_where_it_is_asked_for(extra: str, shipped: dict[str, set[str]]) -> None:
    files = set().union(*(shipped[name] for name in OF[extra] - INDIRECT.keys()))
    assert files
    assert {file for file in files if not re.match(PLACES[extra], file)} == set()


def test_the_extras_that_are_named_to_users_bring_what_is_said_to_be_missing() -> None:
    known = packages_distributions()
    assert {extra: {canonical(known[name][0]) for name in names} for extra, names in EXTRAS.items()} == {
        extra: OF[extra] for extra in EXTRAS
    }
    quick = [extra for extra in EXTRAS if extra != "evaluate"]  # which takes long to resolve
    assert PROJECT["optional-dependencies"]["all"] == [f"lightning-distill[{','.join(quick)}]"]


@pytest.mark.slow
def test_what_tests_and_scripts_import_is_declared_for_them() -> None:
    used = set(imported("tests", "scripts"))
    assert used - BASE - set().union(*OF.values()) == UNDECLARED.keys()
    assert (OF["test"] | OF["bench"]) - used - TOOLS == {"lightning-distill"}
