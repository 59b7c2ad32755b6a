"""The rooms of the package stand on one another, and none reaches up."""

from __future__ import annotations

import ast
import json
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from distill.tasks import TASKS

ROOT = Path(__file__).parents[1]
TOOL = runpy.run_path(str(ROOT / "scripts" / "structure.py"))

ROOMS = [
    "callbacks",
    "cli",
    "compression",
    "config",
    "core",
    "data",
    "export",
    "losses",
    "models",
    "recipes",
    "run",
    "tasks",
    "training",
    "workflows",
]
ALLOWED = {
    "core": set(),
    "config": {"core"},
    "losses": {"core"},
    "tasks": {"core"},
    "compression": {"core"},
    "models": {"core", "losses", "compression"},
    "run": {"core", "config"},
}
"""The rooms below the middle of the house -> all that they may import."""

LIGHT = ("core.utils", "config", "cli", "run.listing", "run.compare", "run.history", "workflows.job.reference")
"""What answers without torch: the command itself, its help and lists, and what they read."""


@pytest.fixture(scope="module")
def house() -> Any:
    return TOOL["Structure"](ROOT / "distill")


def test_the_top_of_the_package_holds_the_rooms_alone() -> None:
    files = {path.name for path in (ROOT / "distill").iterdir() if path.name != "__pycache__"}
    assert files == {*ROOMS, "__init__.py", "__main__.py", "py.typed"}


def test_no_room_imports_one_that_stands_on_it(house: Any) -> None:
    assert house.circles == []
    assert max(house.floors.values()) <= 8
    assert house.upward(house.floors) == []


@pytest.mark.parametrize(("room", "allowed"), ALLOWED.items())
def test_the_lower_rooms_import_only_what_is_theirs(house: Any, room: str, allowed: set[str]) -> None:
    assert house.arrows[room] <= allowed


def test_only_what_a_command_does_knows_the_callbacks(house: Any) -> None:
    knowing = {room for room, below in house.arrows.items() if "callbacks" in below}
    assert knowing == {"workflows", "distill"}  # the package offers them, and loads them when asked
    assert {room for room, below in house.arrows.items() if "distill" in below} == set()
    assert house.arrows["export"] & {"training", "workflows"} == set()


def test_what_must_answer_at_once_imports_no_torch(house: Any) -> None:
    light = [module for module in house.trees if module.startswith(tuple(f"distill.{name}" for name in LIGHT))]
    assert len(light) > 30
    code = f"import json, sys\nfor name in {light!r}: __import__(name)\nprint(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(json.loads(done.stdout.splitlines()[-1]))
    assert loaded & {"torch", "transformers", "pytorch_lightning", "lightning_fabric", "datasets", "wandb"} == set()


def written(folder: Path, **files: str) -> Any:
    for name, text in files.items():
        path = folder / "house" / f"{name.replace('.', '/')}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return TOOL["Structure"](folder / "house")


def test_imports_are_followed_through_packages_into_functions_and_types(tmp_path: Path) -> None:
    house = written(
        tmp_path,
        **{
            "__init__": "",
            "low.__init__": "from house.low.inner import Thing as Renamed\n",
            "low.inner": "class Thing: ...\n",
            "high.__init__": "",
            "high.lazy": "def f():\n    from house.low import Renamed\n",
            "high.typed": "if TYPE_CHECKING:\n    from house import low\n",
            "high.near": "from .lazy import f\n",
        },
    )
    assert {(each.source, each.target) for each in house.imports} == {
        ("house.low", "house.low.inner"),
        ("house.high.lazy", "house.low.inner"),
        ("house.high.typed", "house.low"),
        ("house.high.near", "house.high.lazy"),
    }
    assert house.floors == {"house": 1, "low": 1, "high": 2}


def test_a_circle_and_an_import_that_runs_up_are_found(tmp_path: Path) -> None:
    house = written(
        tmp_path,
        **{
            "__init__": "",
            "a": "from house import b\n",
            "b": "import house.c\n",
            "c": "from house.a import x\n",
            "d": "from house import a\n",
        },
    )
    assert house.circles == [["a", "b", "c"]]
    assert [(each.source, each.target) for each in house.upward({"a": 3, "b": 2, "c": 1, "d": 3})] == [
        ("house.c", "house.a"),
        ("house.d", "house.a"),
    ]


LLAMA_CPP = "distill/export/gguf/target.py"
"""llama.cpp reads language models alone, and transformers' reader of its files is asked by their auto class."""


def test_nothing_but_the_tasks_knows_one_by_its_name() -> None:
    names = {name for name in TASKS if name != "plain"} | {kind.__name__ for kind in TASKS.values()}
    found = {
        f"{path.relative_to(ROOT)}: {word}"
        for folder in ("distill", "callbacks")
        for path in sorted((ROOT / folder).rglob("*.py"))
        if not path.is_relative_to(ROOT / "distill/tasks")
        for node in ast.walk(ast.parse(path.read_text()))
        for word in _words(node)
        if word in names or word.startswith("AutoModelFor")
    }
    assert found == {f"{LLAMA_CPP}: AutoModelForCausalLM"}


def _words(node: ast.AST) -> list[str]:
    """What a node names: texts, names, attributes and imports."""
    if isinstance(node, ast.Constant):
        return [node.value] if isinstance(node.value, str) else []
    if isinstance(node, ast.alias):
        return [node.name]
    return [word for word in (getattr(node, "id", None), getattr(node, "attr", None)) if isinstance(word, str)]
