"""What other libraries keep to themselves is used in one file a library, so that an upgrade breaks in one place."""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
import textwrap
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

import distill

ROOT = Path(__file__).parents[3]
INTERNALS = Path("distill/core/internals")
WANDB = {"distill/run/loggers/wandb_service.py", "distill/run/loggers/wandb_file.py"}
ARGPARSE = {"distill/cli/parser.py": {"_actions", "_option_string_actions"}}
"""The parser of the command line, which is built on the standard library's."""

DOCUMENTED = {"_", "_exit", "_replace"}
"""Names that begin so and are documented all the same: of ``os`` and of named tuples."""

LOOPS = {"fit_loop", "epoch_loop", "batch_progress", "validate_loop", "loops"}
"""Names under which Lightning keeps its counters."""

SERVICE = {"termsetup", "update_from_env_vars", "teardown", "proto", "Settings"}
"""Names under which W&B has what it documents nowhere."""


@cache
def sources() -> dict[str, ast.Module]:
    """Each file's tree: read when a test asks for it, as collecting tests is paid by every worker."""
    paths = [*sorted((ROOT / "distill").rglob("*.py")), *sorted((ROOT / "callbacks").rglob("*.py"))]
    found = {path.relative_to(ROOT).as_posix(): ast.parse(path.read_text(encoding="utf-8")) for path in paths}
    return {name: tree for name, tree in found.items() if Path(name).parent != INTERNALS}


def private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__") and name not in DOCUMENTED


def of_self(node: ast.Attribute) -> bool:
    return isinstance(node.value, ast.Name) and node.value.id == "self"


def ours(tree: ast.Module) -> set[str]:
    """The private names that a file defines: functions, classes, variables, attributes of ``self``."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and of_self(node):
            found.add(node.attr)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and private(node.value):
            found.add(node.value)  # written into a __dict__
        elif isinstance(node, ast.keyword) and node.arg:
            found.add(node.arg)
    return found


@cache
def all_ours() -> set[str]:
    return set().union(*map(ours, sources().values()))


def foreign(tree: ast.Module) -> Iterator[str]:
    """What a file uses of others that they keep to themselves."""
    own = ours(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and private(node.attr):
            # What another file of ours defines is met on `self` alone, which a base class of ours has given it.
            if node.attr not in (all_ours() if of_self(node) else own):
                yield ast.unparse(node)
        elif isinstance(node, ast.ImportFrom) and not (node.module or "").startswith(("distill", "__future__")):
            if any(map(private, [*(node.module or "").split("."), *(alias.name for alias in node.names)])):
                yield ast.unparse(node)
        elif isinstance(node, ast.Import) and any(private(p) for alias in node.names for p in alias.name.split(".")):
            yield ast.unparse(node)


def asked_for(tree: ast.Module) -> Iterator[str]:
    """Private names that are read off objects by their text."""
    for node in ast.walk(tree):
        readers = ("getattr", "setattr", "hasattr", "delattr")
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in readers:
            name = node.args[1]
            if isinstance(name, ast.Constant) and private(str(name.value)):
                yield str(name.value)


@pytest.mark.slow
def test_no_file_uses_what_another_library_keeps_to_itself() -> None:
    for name, tree in sources().items():
        allowed = {f"self.{attribute}" for attribute in ARGPARSE.get(name, ())}
        assert set(foreign(tree)) - allowed == set(), name
        assert set(asked_for(tree)) - {"_compression_steps", "_documents", "_ahead"} == set(), name


def test_counters_of_lightning_and_the_service_of_wandb_have_their_files() -> None:
    for name, tree in sources().items():
        attributes = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
        texts = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)}
        assert (attributes | texts) & LOOPS == set(), name
        if "wandb" in {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}:
            assert not attributes & SERVICE or name in WANDB, name


def test_the_rule_sees_what_it_forbids() -> None:
    text = """
    import torch._dynamo
    from jsonargparse._util import import_object
    from pytorch_lightning.strategies.launchers import _Script
    module._parameters
    trainer.fit_loop._should_accumulate()
    self._wandb_init
    class Own:
        _mine = 1
        def f(self, other): return other._mine
    getattr(model, "_ddp")
    """
    tree = ast.parse(textwrap.dedent(text))
    assert [*foreign(tree)] == [
        "import torch._dynamo",
        "from jsonargparse._util import import_object",
        "from pytorch_lightning.strategies.launchers import _Script",
        "module._parameters",
        "self._wandb_init",
        "trainer.fit_loop._should_accumulate",
    ]
    assert [*asked_for(tree)] == ["_ddp"]


# ---------------------------------------------------------------------- classes of ours that are theirs too


def classes() -> dict[str, type]:
    """Every class of ours."""
    found = {}
    for module in pkgutil.walk_packages(distill.__path__, "distill."):
        if not module.name.startswith(("distill.recipes", "distill.core.internals")) and "__main__" not in module.name:
            for name, value in vars(importlib.import_module(module.name)).items():
                if inspect.isclass(value) and value.__module__ == module.name:
                    found[f"{module.name}.{name}"] = value
    return found


@cache
def definitions(module: str) -> dict[str, ast.ClassDef]:
    """The classes at the top of a module, by name."""
    try:
        tree = ast.parse(inspect.getsource(importlib.import_module(module)))
    except (OSError, TypeError):  # built in
        return {}
    return {node.name: node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)}


@cache
def privates(cls: type) -> frozenset[str]:
    """The private names that a class defines, or gives its instances."""
    definition = definitions(cls.__module__).get(cls.__name__, ast.Pass())
    names = {n.id for n in ast.walk(definition) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
    for node in ast.walk(definition):
        if isinstance(node, ast.FunctionDef):
            names.add(node.name)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and of_self(node):
            names.add(node.attr)
    return frozenset(filter(private, names))


@pytest.mark.slow
def test_no_class_defines_anew_what_a_base_of_another_library_keeps_to_itself() -> None:
    """Neither to change what it does, nor unawares."""
    for name, cls in classes().items():
        strange: list[Any] = [base for base in cls.__mro__[1:-1] if not base.__module__.startswith("distill.")]
        assert privates(cls) & set().union(*map(privates, strange)) == set(), name
