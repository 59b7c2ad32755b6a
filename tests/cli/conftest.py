"""What is refused, for tests that make one mistake in a run that works; what the command imports."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

HEAVY = {
    "torch",
    "transformers",
    "pytorch_lightning",
    "lightning_fabric",
    "datasets",
    "numpy",
    "scipy",
    "jsonargparse",
    "wandb",
}


@pytest.fixture
def refused(base: dict[str, Any], distill: Callable[..., Any]) -> Callable[..., str]:
    """What ``distill fit -c base.yaml`` says of a mistake in its arguments: one message, and nothing is written."""

    def run(*argv: str) -> str:
        before = sorted(str(p) for p in Path().rglob("*"))
        code, out, err = distill("fit", "-c", "base.yaml", *argv)
        assert code == 2
        assert err.count("distill: error: ") == 1
        assert "Traceback" not in out + err
        assert sorted(str(p) for p in Path().rglob("*")) == before
        message = err[err.index("distill: error: ") :]
        assert "?." not in message
        return message

    return run


@pytest.fixture(scope="session")
def heavy() -> Callable[..., tuple[str, set[str]]]:
    """What the command prints in a process of its own, and what it imports there that is slow to import."""

    def run(*argv: str) -> tuple[str, set[str]]:
        code = "import sys; from distill.cli import main; main(sys.argv[1:]); print(*sys.modules, file=sys.stderr)"
        done = subprocess.run([sys.executable, "-c", code, *argv], capture_output=True, text=True, check=True)
        return done.stdout, HEAVY & set(done.stderr.split())

    return run
