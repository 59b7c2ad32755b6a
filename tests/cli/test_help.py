"""What the ``distill`` command says of itself, and how fast."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from distill import __version__

Distill = Callable[..., Any]


@pytest.mark.parametrize(
    "argv",
    [["--help"], ["-h"], [], ["--version"], ["list", "--help"], ["validate", "--help"], ["fti"], ["validate"]],
    ids=" ".join,
)
def test_help_imports_nothing_heavy(argv: list[str], heavy: Callable[..., tuple[str, set[str]]]) -> None:
    _, imported = heavy(*argv)
    assert not imported


def test_help_shows_every_command(distill: Distill) -> None:
    code, out, _ = distill("--help")
    assert code == 0
    for command in ("fit", "validate", "test", "list"):
        assert f"distill {command}" in out


def test_the_installed_command_tells_its_version() -> None:
    command = Path(sys.executable).with_name("distill")
    if not command.exists():
        pytest.skip("the command is not installed beside this interpreter")
    done = subprocess.run([command, "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"distill {__version__}\n"


def test_the_help_of_fit_lists_options_and_keys(distill: Distill) -> None:
    code, out, _ = distill("fit", "--help")
    assert code == 0
    for key in ("--dry-run", "--allow", "model.student.num_layers", "model.optimizer.lr", "data.batch_size"):
        assert key in out
    assert "trainer.max_epochs" in out
    assert "trainer.callbacks" not in out  # cannot be given there


def test_the_help_of_fit_says_what_every_key_is(distill: Distill) -> None:
    _, out, _ = distill("fit", "--help")
    lines = out[out.index("  model.student ") :].splitlines()
    keys = [i for i, line in enumerate(lines) if line.startswith(("  model.", "  data.", "  trainer.", "  logging."))]
    assert len(keys) > 60
    assert [lines[i] for i in keys if not lines[i + 1].startswith(" " * 6)] == []
    assert "`" not in out


@pytest.mark.parametrize("command", ["validate", "test"])
def test_the_help_of_evaluation_says_that_keys_may_be_replaced(command: str, distill: Distill) -> None:
    _, out, _ = distill(command, "--help")
    assert "--key value" in out
    assert f"distill {command} runs/NAME/ID --data." in out


def test_list_shows_each_thing_with_its_defaults(distill: Distill) -> None:
    code, out, _ = distill("list")
    assert code == 0
    words = " ".join(out.split())
    for said in ("HintonKL", "temperature=2.0", "CrossEntropy", "Linear", "Determinism", "causal-lm", "quickstart/"):
        assert said in words
    code, out, _ = distill("list", "schedules")
    assert "WarmUp" in out
    assert "HintonKL" not in out
