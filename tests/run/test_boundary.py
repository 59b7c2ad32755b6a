"""The promise that what a command writes is not laid over a run's own files."""

from __future__ import annotations

from pathlib import Path

import pytest

from distill.core.utils.errors import UserError
from distill.run.boundary import refuse_inside
from distill.run.folder import Run


@pytest.mark.parametrize("place", ["", "checkpoints/x", "student", "exports", "metrics.csv", "exports/../student"])
def test_an_output_among_a_runs_own_files_is_refused(tmp_path: Path, place: str) -> None:
    with pytest.raises(UserError, match=r"--output = .*lies among the run's own files"):
        refuse_inside(tmp_path, tmp_path / place)


def test_an_output_in_its_exports_or_elsewhere_is_let_be(tmp_path: Path) -> None:
    run = tmp_path / "run"
    for place in (run / "exports" / "mine", run / "sensitivity", tmp_path / "run2", tmp_path, None):
        refuse_inside(run, place)


def test_messages_call_a_run_as_the_user_did(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a" / "1").mkdir(parents=True)
    (tmp_path / "a" / "1" / "config.yaml").write_text("seed: 0\n")
    monkeypatch.chdir(tmp_path)
    run = Run.open("a/1")
    assert run.shown == "a/1"
    assert run.folder == tmp_path.resolve() / "a" / "1"
