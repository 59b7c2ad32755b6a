"""The picture of README: of a real run, drawn anew by one command, and small."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from distill.workflows.timeline import DrawTimeline, history_panels

ROOT = Path(__file__).parents[2]


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    import readme_timeline

    return readme_timeline


@pytest.mark.usefixtures("painted")
def test_a_short_run_draws_losses_and_accuracy_on_light_and_on_dark(script: Any, tmp_path: Path) -> None:
    trainer = script.train(tmp_path, seed=0, epochs=2, teacher_epochs=1)
    assert [panel.title for panel in history_panels(tmp_path / "metrics.csv", ["accuracy"])] == [
        "training loss",
        "accuracy, validation",
    ]
    drawn = set()
    for name, settings in script.PICTURES.items():
        DrawTimeline(tmp_path / name, settings).draw(trainer)
        drawn.add((tmp_path / name).read_bytes())
    assert len(drawn) == 2


def test_the_pictures_are_there_and_under_200_kilobytes(script: Any) -> None:
    assert all(0 < (ROOT / "docs" / name).stat().st_size < 200_000 for name in script.PICTURES)
