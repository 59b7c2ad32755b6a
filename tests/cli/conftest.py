"""What is refused, for tests that make one mistake in a run that works."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


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
