"""The main job runs to its end: here with a few steps, and all that it says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[2] / "scripts"

pytest.importorskip("onnxruntime", reason="the quickstart exports, which takes the export extra")


def test_the_quickstart_ends_with_the_table_the_completions_and_what_it_exported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(SCRIPTS))
    import quickstart

    train = quickstart.train
    few = {"trainer__max_steps": "20", "trainer__limit_val_batches": "1", "data__batch_size": "2"}
    monkeypatch.setattr(quickstart, "train", lambda *given, **named: train(*given, **named, **few))
    quickstart.main(["--runs", str(tmp_path)])
    said = capsys.readouterr().out
    for name in ("student, alone", "student, distilled", "student, 80 % pruned, int8"):
        assert re.search(rf"│ {name} +│ +\d\.\d+ │", said), name
        assert f"╭─ {name} ─" in said
    shipped = r"model\.onnx\s+runs in\s+onnxruntime: [\d.]+\s+[kM]B, [\d.]+\s+times\s+smaller\s+than\s+the\s+float"
    assert re.search(shipped, said)
    assert re.search(r"\d s in all\.", said)
    [export] = tmp_path.glob("*/*/exports/onnx-int8/model.onnx")
    assert export.stat().st_size < 1e6
