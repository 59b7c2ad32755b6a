"""What ``distill validate`` and ``distill test`` promise."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

Distill = Callable[..., Any]
Fitted = Callable[..., Path]


def test_a_saved_run_is_validated_with_the_metrics_of_its_training(fitted: Fitted, distill: Distill) -> None:
    run = fitted("--trainer.limit_val_batches", "1.0")
    code, out, _ = distill("validate", str(run))
    assert code == 0
    result = json.loads((run / "result.json").read_text())
    for name, value in result["scores"]["student"].items():
        assert name in out
        assert f"{value:.4g}" in out
    assert "constant guess: always" in out
    assert [line for line in result["verdict"] if f"warning: {line}" not in out] == []


def test_test_reads_the_test_split(fitted: Fitted, distill: Distill, text_folder: str) -> None:
    run = fitted()
    code, _, err = distill("test", str(run))
    assert code == 2
    assert "data.splits" in err
    code, out, _ = distill("test", str(run), "--data.splits.test", "validation")
    assert code == 0
    assert "base one: test" in out
    assert "constant guess: always" in out
