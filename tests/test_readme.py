"""What the README shows, runs."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from distill.config import files as configuration

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def test_the_example_in_python_runs_as_it_stands(tmp_path: Path) -> None:
    blocks = [block for block in re.findall(r"```python\n(.*?)```", README, re.DOTALL) if "def net" in block]
    assert len(blocks) == 1
    script = tmp_path / "example.py"
    script.write_text(blocks[0].replace("max_epochs=20", "max_epochs=1"))
    done = subprocess.run([sys.executable, str(script)], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("val/accuracy") == 3
    assert "val/agreement" in done.stdout


@pytest.mark.parametrize("recipe", sorted(configuration.recipes()))
def test_a_recipe_opens_with_its_command_and_its_needs(recipe: str) -> None:
    lines = configuration.recipes()[recipe].read_text().splitlines()
    head = [line for line in lines[:8] if line.startswith("#")]
    assert any(line.startswith("#   distill fit -c ") and recipe in line.split() for line in head)
    assert any("Needs:" in line for line in head)


def test_the_quickstarts_two_students_differ_in_nothing_but_their_teacher() -> None:
    alone, distilled = (configuration.load([f"quickstart/{name}"]) for name in ("alone", "distilled"))
    for config in (alone, distilled):
        del config["name"], config["model"]["losses"]
    assert distilled["model"].pop("teacher") == "distill:quickstart/teacher"
    assert alone == distilled


def test_the_architecture_has_a_place_for_every_file() -> None:
    text = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`(?:distill/)?(\w+\.py)`", text.partition("## Contracts")[0]))
    files = {path.name for path in (ROOT / "distill").glob("*.py")} - {"__init__.py"}
    assert files <= named
    rooms = {path.parent.name for path in (ROOT / "distill").glob("*/__init__.py")} - {
        "callbacks",
        "commands",
        "configs",
    }
    assert {room for room in rooms if f"`distill/{room}/`" not in text} == set()
