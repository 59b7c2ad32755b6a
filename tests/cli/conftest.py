"""What is refused, for tests that make one mistake in a run that works; what the command imports."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from distill.config.files import SECTIONS, apply_override, load
from distill.core.utils.errors import UserError

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
        _type_key(message, argv)
        return message

    return run


def _type_key(message: str, argv: Sequence[str]) -> None:
    """Type the key that a message prints; one that is refused for its name is left."""
    found = re.match(r"distill: error: ([\w.]+)(?: = |: )", message)
    refused_for_its_name = re.search(r"no such key|has no '|stands beside|must be the name of a class", message)
    if not found or refused_for_its_name or found[1].split(".")[0] not in SECTIONS:
        return
    given = [(key, value) for key, value in pairwise(argv) if key.startswith("--") and key != "--allow"]
    with suppress(UserError):  # of what is wrong before
        config = load(["base.yaml"], [(key.removeprefix("--"), value) for key, value in given])
        # A list that is no list, a mapping that is a number: those are given anew.
        holds = all(isinstance(config.get(section, default()), default) for section, default in _SHAPES.items())
        if holds:
            typed(config, found[1])


def typed(config: dict[str, Any], key: str) -> None:
    """Set ``key`` of ``config``, which must be possible."""
    try:
        apply_override(config, key, 3)
    except UserError as error:
        raise AssertionError(f"{key} cannot be typed as it is printed: {error}") from error


_SHAPES: dict[str, type] = {"model": dict, "data": dict, "trainer": dict, "callbacks": list, "logging": dict}


@pytest.fixture(scope="session")
def heavy() -> Callable[..., tuple[str, set[str]]]:
    """What the command prints in a process of its own, and what it imports there that is slow to import."""

    def run(*argv: str) -> tuple[str, set[str]]:
        code = "import sys; from distill.cli.main import main; main(sys.argv[1:]); print(*sys.modules, file=sys.stderr)"
        done = subprocess.run([sys.executable, "-c", code, *argv], capture_output=True, text=True, check=True)
        return done.stdout, HEAVY & set(done.stderr.split())

    return run
