"""The benchmark of training runs end to end on small models; nothing is asserted of its times."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

SCRIPTS = Path(__file__).parents[2] / "scripts"


@pytest.mark.slow
def test_all_sections_run_and_are_written(
    encoder: str, text_folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(SCRIPTS))
    import bench_training

    out = tmp_path / "figures.json"
    options = {"data": text_folder, "model": encoder, "out": out, "steps": 2, "repeats": 1, "batch-size": 4}
    options |= {"phrases": 100, "threads": torch.get_num_threads()}
    bench_training.main([word for name, value in options.items() for word in (f"--{name}", str(value))])

    figures = json.loads(out.read_text())
    assert list(figures["sections"]) == ["overhead", "peers", "teacher"]
    assert figures["machine"]["threads"] == torch.get_num_threads()
    rows = {row["name"]: row for section in figures["sections"].values() for row in section}
    _check_overhead(rows)
    _check_peers(rows)
    _check_teacher(rows)


def _check_overhead(rows: dict[str, Any]) -> None:
    for pair in ("SST-2", "language model"):
        assert rows[f"{pair}: bare loop"]["value"] > 0
        # The bare loop does the same: to the last bit.
        assert rows[f"{pair}: largest difference of weights at the end"]["value"] == 0


def _check_peers(rows: dict[str, Any]) -> None:
    for name in ("ours, first epoch", "ours, from the second epoch on", "floor: student's forward and backward"):
        assert rows[name]["value"] > 0
    for name, package in (("Trainer", "accelerate"), ("TextBrewer", "textbrewer")):
        measured = [row for key, row in rows.items() if key.startswith(name)]
        assert measured
        assert all(package in row["note"] if row["value"] is None else row["value"] > 0 for row in measured)


def _check_teacher(rows: dict[str, Any]) -> None:
    assert math.isfinite(rows["what the teacher adds : its bare forward"]["value"])
    for name in (
        "computed beyond the teacher's forward",
        "saved for the backward pass because of the teacher",
        "left after the step because of the teacher",
    ):
        assert rows[name]["value"] == 0, name
