"""What a contributor reads and what checks a contribution agree with the project."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

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
    for line in ("ruff check .", "ruff format --check .", "mypy", "pytest", "mkdocs build --strict", "python -m build"):
        assert line in steps


def test_hooks_and_forms_are_whole() -> None:
    hooks = {hook["id"]: hook["entry"] for repo in read(".pre-commit-config.yaml")["repos"] for hook in repo["hooks"]}
    assert hooks.keys() == {"ruff", "ruff-format", "mypy"}
    for form in (ROOT / ".github/ISSUE_TEMPLATE").glob("*.yml"):
        if form.name != "config.yml":
            held = yaml.safe_load(form.read_text())
            assert {"name", "description", "body"} <= held.keys()
            assert all(part["attributes"]["label"] for part in held["body"])
