"""The benchmark of recorded teachers runs end to end on a small model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[2] / "scripts"


def test_every_form_is_measured_beside_the_model_that_runs(
    chat_dir: Path, text_folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(SCRIPTS))
    import bench_recorded

    out = tmp_path / "figures.json"
    options = {"teacher": chat_dir, "data": text_folder, "layers": 1, "blocks": 2, "repeats": 1, "out": out}
    bench_recorded.main([word for name, value in options.items() for word in (f"--{name}", str(value))])
    sections = json.loads(out.read_text())["sections"]
    assert [row["name"] for row in sections["steps"]][:3] == ["alone", "live", "hidden bf16"]
    rows = {row["name"]: row["value"] for row in sections["errors"]}
    assert rows["hidden bf16: bytes a position"] == 32
    assert rows["hidden int8: bytes a position"] == 20
    assert rows["sampled 12: bytes a position"] == 24
    assert abs(rows["hidden bf16: KL"]) < 1
    assert rows["hidden bf16: gradient by position"] < rows["topk 50: gradient by position"]
