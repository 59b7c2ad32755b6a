"""The main job runs to its end: here with a few steps, and all that it says."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from distill.workflows.report.schema import Report

SCRIPTS = Path(__file__).parents[2] / "scripts"

pytest.importorskip("onnxruntime", reason="the quickstart exports, which takes the export extra")


@pytest.mark.slow
def test_the_quickstart_ends_with_the_table_the_completions_and_what_it_exported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(SCRIPTS))
    import quickstart

    train, export = quickstart.train, quickstart.export
    few = {"trainer__max_steps": "20", "trainer__limit_val_batches": "1", "data__batch_size": "2"}
    few["data__train_samples"] = "32"
    monkeypatch.setattr(quickstart, "train", lambda *given, **named: train(*given, **named, **few))
    monkeypatch.setattr(quickstart, "export", lambda folder, to: export(folder, to, samples=8))
    monkeypatch.setattr(quickstart, "MEASURED", replace(quickstart.MEASURED, samples=2, draws=10, timed=False))
    quickstart.main(["--runs", str(tmp_path)])
    said = capsys.readouterr().out
    for name in ("student, alone", "student, distilled", "student, 80 % pruned, int8"):
        assert re.search(rf"│ {name} +│ +\d\.\d+ │", said), name
        assert f"╭─ {name} ─" in said
    shipped = r"model\.onnx\s+runs in\s+onnxruntime: [\d.]+\s+[kM]B, [\d.]+\s+times\s+smaller\s+than\s+the\s+float"
    assert re.search(shipped, said)
    assert re.search(r"\d s in all\.", said)
    [report] = tmp_path.glob("quickstart-compressed/*/report.json")
    keys = Report.from_json(report.read_text()).keys
    assert {"teacher", "quickstart-alone", "quickstart-distilled", "quickstart-compressed onnx-int8"} <= set(keys)
    assert report.with_name("report.html").is_file()
    assert "report.html" in said
    [export] = tmp_path.glob("*/*/exports/onnx-int8/model.onnx")
    assert export.stat().st_size < 1e6
