"""What a contributor reads and what checks a contribution agree with the project."""

from __future__ import annotations

import os
import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from distill.cli.main import COMMANDS
from distill.config.files import find_file
from distill.core.utils.version import VERSION

ROOT = Path(__file__).parents[1]
PAGES = ("CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md")


def read(name: str) -> Any:
    return yaml.safe_load((ROOT / name).read_text())


@pytest.mark.parametrize("name", PAGES)
def test_pages_name_files_that_there_are(name: str) -> None:
    text = (ROOT / name).read_text()
    linked = re.findall(r"\]\((?!https?:)([^)#]+)", text)
    quoted = re.findall(r"`((?:scripts|docs|tests|distill|callbacks|examples)/[\w./-]*)`", text)
    for path in (*linked, *quoted):
        assert (ROOT / path).exists(), path


def test_every_page_has_the_version_that_is_worked_on() -> None:
    assert read("CITATION.cff")["version"] == VERSION
    assert re.search(r"^## \[(.*?)\](?: \((.*?)\))?", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)[2] == VERSION  # type: ignore[index]


def test_the_workflow_checks_what_the_project_does() -> None:
    flow = read(".github/workflows/ci.yml")
    assert flow["jobs"].keys() == {"test", "wheel", "docs"}
    matrix = flow["jobs"]["test"]["strategy"]["matrix"]
    assert matrix == {"python": ["3.11", "3.12", "3.13", "3.14"], "versions": ["pinned", "newest"]}
    steps = "\n".join(step.get("run", "") for job in flow["jobs"].values() for step in job["steps"])
    for line in ("scripts/test", "mkdocs build --strict", "python -m build"):
        assert line in steps
    whole = (ROOT / "scripts/test").read_text()
    for line in ("ruff check .", "ruff format --check .", "mypy", "-m pytest"):
        assert f".venv/bin/{line}" in whole or f".venv/bin/python {line}" in whole


def test_the_workflow_calls_what_there_is() -> None:
    steps = [step for job in read(".github/workflows/ci.yml")["jobs"].values() for step in job["steps"]]
    lines = "\n".join(step.get("run", "") for step in steps)
    for script in re.findall(r"\bscripts/\w+", lines):
        assert os.access(ROOT / script, os.X_OK), script
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert {extra for named in re.findall(r"\.\[(.*?)\]", lines) for extra in named.split(",")} <= extras.keys()
    for recipe in re.findall(r"distill fit -c (\S+)", lines):
        assert find_file(recipe).is_file()
    for command in re.findall(r"bin/distill (\w+)", lines):
        assert command in COMMANDS
    given = {name for step in steps for name in step.get("env", {})}
    read_there = {*re.findall(r"\$\{(\w+):-", (ROOT / "scripts/_environment").read_text())}
    assert given <= read_there  # a variable that nothing reads would change nothing


def test_torch_is_installed_first_within_its_bounds() -> None:
    line = next(one for one in (ROOT / "scripts/_environment").read_text().splitlines() if "sed -n" in one)
    command = line[line.index("sed ") : line.rindex(")")]
    done = subprocess.run(command, shell=True, cwd=ROOT, capture_output=True, text=True, check=True)
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    assert done.stdout.split() == [one for one in wanted if re.match(r"torch\W", one)]


def test_hooks_and_forms_are_whole() -> None:
    hooks = {hook["id"]: hook["entry"] for repo in read(".pre-commit-config.yaml")["repos"] for hook in repo["hooks"]}
    assert hooks.keys() == {"ruff", "ruff-format", "mypy"}
    for form in (ROOT / ".github/ISSUE_TEMPLATE").glob("*.yml"):
        if form.name != "config.yml":
            held = yaml.safe_load(form.read_text())
            assert {"name", "description", "body"} <= held.keys()
            assert all(part["attributes"]["label"] for part in held["body"])
