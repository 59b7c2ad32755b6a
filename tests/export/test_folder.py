"""An export is there complete or not at all."""

from __future__ import annotations

import errno
from pathlib import Path
from types import SimpleNamespace

import pytest

from distill.core.utils.errors import UserError
from distill.core.utils.replacing import replacing
from distill.export.folder import REPORT, replacing_export


def test_the_folder_is_there_when_the_block_has_ended(tmp_path: Path) -> None:
    target = tmp_path / "a" / "b"
    with replacing_export(target) as fresh:
        (fresh / "model").write_text("new")
        assert not target.exists()
    assert (target / "model").read_text() == "new"
    assert [p.name for p in target.parent.iterdir()] == ["b"]


def test_a_failure_leaves_nothing(tmp_path: Path) -> None:
    def fail() -> None:
        with replacing_export(tmp_path / "exports" / "out") as fresh:
            (fresh / "model").write_text("new")
            raise ValueError

    with pytest.raises(ValueError):
        fail()
    assert not list(tmp_path.iterdir())


def test_a_failure_leaves_none_of_several_new_folders_and_says_what_it_was(tmp_path: Path) -> None:
    def fail() -> None:
        with replacing_export(tmp_path / "a" / "b" / "out"):
            (tmp_path / "a" / "mine").write_text("of somebody else")
            raise ValueError

    with pytest.raises(ValueError):
        fail()
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["mine"]


def test_the_current_folder_is_refused_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(UserError, match=r"--output = '\.': the current folder"), replacing_export(Path(".")):
        pytest.fail("this is too late")
    assert [p.name for p in tmp_path.iterdir()] == ["here"]


def test_two_exports_to_one_folder_are_not_in_each_others_way(tmp_path: Path) -> None:
    with replacing_export(tmp_path / "out") as first:
        (first / REPORT).write_text("first")
        with replacing_export(tmp_path / "out") as second:
            (second / REPORT).write_text("second")
    assert (tmp_path / "out" / REPORT).read_text() == "first"
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_a_failure_leaves_an_earlier_export_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / REPORT).write_text("old")

    def fail() -> None:
        with replacing_export(tmp_path / "out") as fresh:
            (fresh / REPORT).write_text("new")
            raise ValueError

    with pytest.raises(ValueError):
        fail()
    assert (tmp_path / "out" / REPORT).read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_an_earlier_export_is_replaced_whole(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / REPORT).write_text("old")
    (tmp_path / "out" / "more").write_text("old")
    with replacing_export(tmp_path / "out") as fresh:
        (fresh / REPORT).write_text("new")
    assert [p.name for p in (tmp_path / "out").iterdir()] == [REPORT]


def test_what_is_no_export_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(UserError, match=r"--output = .*no earlier export"), replacing_export(tmp_path):
        pass
    with pytest.raises(UserError, match=r"--output = .*no earlier export"), replacing_export(tmp_path / "thesis.txt"):
        pass
    assert (tmp_path / "thesis.txt").read_text() == "years of work"
    with pytest.raises(UserError, match="cannot be written to"), replacing_export(tmp_path / "thesis.txt" / "out"):
        pass


def test_a_folder_that_cannot_be_replaced_is_back_in_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with replacing(tmp_path / "out", "--output") as fresh:
        (fresh / "model").write_text("old")
    rename = Path.rename

    def fail(path: Path, target: Path) -> Path:
        if path.suffix == ".new":
            raise OSError("no space left on device")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(OSError, match="no space left"), replacing(tmp_path / "out", "--output") as fresh:
        (fresh / "model").write_text("new")
    assert (tmp_path / "out" / "model").read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


class Unlike(Exception):
    """As libraries raise errors of their own."""


@pytest.mark.parametrize(
    ("error", "free", "full"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), 1 << 30, True),
        (Unlike("I/O error: No space left on device (os error 28)"), 1 << 30, True),
        (RuntimeError("file write failed"), 100, True),
        (RuntimeError("file write failed"), 1 << 30, False),
        (UserError("wrong", key="--to", hint="another"), 100, False),
    ],
)
def test_a_full_disk_is_one_message_and_leaves_nothing(
    error: Exception, free: int, full: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=free))

    def fail() -> None:
        with replacing_export(tmp_path / "exports" / "out") as fresh:
            (fresh / "model").write_text("half of it")
            raise error

    said = r"--output = '.*out': lies on a disk that is full; nothing was written. make room"
    with pytest.raises(UserError if full else type(error), match=said if full else "wr"):
        fail()
    assert not list(tmp_path.iterdir())
