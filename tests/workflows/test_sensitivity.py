"""A scan replaces the files of an earlier scan, and no others."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from distill.compression.sensitivity.scan import Point, is_table, write
from distill.core.utils.errors import UserError
from distill.workflows import sensitivity
from distill.workflows.sensitivity import _HEAD, _refuse_foreign


def test_a_table_of_points_is_told_from_others(tmp_path: Path) -> None:
    ours, other = tmp_path / "ours.csv", tmp_path / "other.csv"
    write([], ours)
    assert is_table(ours)
    for content in ("", "layer,x,y\na,1,2\n", ours.read_text().strip() + ",more\n", "x" + ours.read_text()):
        other.write_text(content)
        assert not is_table(other)
    assert not is_table(tmp_path)
    assert not is_table(tmp_path / "none.csv")


def test_a_file_of_somebody_elses_is_not_replaced(tmp_path: Path) -> None:
    def refused(name: str, content: str) -> None:
        (tmp_path / name).write_text(content)
        with pytest.raises(UserError, match="is none that this command has written") as error:
            _refuse_foreign(tmp_path)
        assert (error.value.key, error.value.value) == ("--output", str(tmp_path / name))
        assert (tmp_path / name).read_text() == content
        (tmp_path / name).unlink()

    _refuse_foreign(tmp_path / "nowhere")
    _refuse_foreign(tmp_path)
    for name, content in (("points.csv", "x,y\n1,2\n"), ("overrides.yaml", "callbacks: []\n"), ("sensitivity.png", "")):
        refused(name, content)
    (tmp_path / "notes.txt").write_text("mine")
    write([Point("body", 32, "sparsity", 0.5, 0.9, 0.1)], tmp_path / "points.csv")
    refused("overrides.yaml", "callbacks: []\n")
    (tmp_path / "sensitivity.png").write_bytes(b"")
    (tmp_path / "overrides.yaml").write_text(f"{_HEAD}run as much as harms it least\n")
    _refuse_foreign(tmp_path)
    (tmp_path / "points.csv").unlink()
    (tmp_path / "points.csv").symlink_to(tmp_path / "gone")
    with pytest.raises(UserError, match="is none that this command has written"):
        _refuse_foreign(tmp_path)


def test_what_would_be_replaced_is_refused_before_a_model_is_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def opened(*_: object, **__: object) -> None:
        raise AssertionError

    run = SimpleNamespace(folder=tmp_path / "run", refuse_links=lambda: None)
    monkeypatch.setattr(sensitivity, "reopen", opened)
    monkeypatch.setattr(sensitivity, "_refuse_vectors", lambda run: None)
    monkeypatch.setattr(sensitivity.Run, "open", lambda folder: run)
    for folder, output in ((tmp_path / "out", tmp_path / "out"), (run.folder / "sensitivity", None)):
        folder.mkdir(parents=True)
        (folder / "points.csv").write_text("x,y\n1,2\n")
        with pytest.raises(UserError, match="is none that this command has written"):
            sensitivity.sensitivity(run.folder, output=output)
