"""A release passes only if it could be installed, has what it requires, and its tests ran and held."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest

TOOL: dict[str, Any] = runpy.run_path(str(Path(__file__).parents[2] / "scripts" / "test_versions.py"))


@pytest.mark.parametrize(
    ("output", "outcome"),
    [
        ("....  [100%]\n", "passes"),
        (
            "..F.  [100%]\nFAILED tests/a.py::test_x - E\nFAILED tests/b.py::test_y\n",
            "2 fail, first tests/a.py::test_x",
        ),
        ("ERROR tests/a.py\n!!! Interrupted !!!\n", "1 fail, first tests/a.py"),
        ("ImportError while loading conftest\n", "does not run"),
        ("", "does not run"),
    ],
)
def test_an_outcome_is_read_off_what_pytest_printed(output: str, outcome: str) -> None:
    assert TOOL["outcome_of"](output) == outcome


def test_what_a_release_requires_is_held_against_what_is_installed(tmp_path: Path) -> None:
    folder = tmp_path / "given-1.0.dist-info"
    folder.mkdir()
    wanted = ["pytest>=1", "pytest<1", "no-such-package", "absent; extra == 'more'", "other; python_version < '3'"]
    lines = "".join(f"Requires-Dist: {line}\n" for line in wanted)
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: given\nVersion: 1.0\n{lines}")
    assert TOOL["unmet"](tmp_path) == ["pytest<1", "no-such-package"]


def test_a_row_of_the_table_has_name_version_and_outcome() -> None:
    assert TOOL["Outcome"]("a==1.2", "passes", 3.0).row == "| a | 1.2 | passes |"
