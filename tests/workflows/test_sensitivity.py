"""A scan replaces the files of an earlier scan, and no others."""

from __future__ import annotations

from pathlib import Path

import pytest

from distill.compression.sensitivity.scan import Point, is_table, write
from distill.core.utils.errors import UserError
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
