"""What a killed process left half made goes with the next one; what a living one makes stays."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from distill.core.utils.half_made import clear
from distill.core.utils.replacing import replacing

_MAKER = """
import sys, time
from distill.core.utils.replacing import replacing
with replacing(sys.argv[1], "--output") as fresh:
    (fresh / "model").write_text("half")
    print("ready", flush=True)
    time.sleep(600)
"""


@contextmanager
def making(place: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that is in the middle of making ``place``."""
    with subprocess.Popen([sys.executable, "-c", _MAKER, str(place)], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            yield process
        finally:
            process.kill()


def make(place: Path, alike: bool = False) -> None:
    with replacing(place, "--output", alike=alike) as fresh:
        (fresh / "model").write_text("whole")


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_what_a_killed_process_left_goes_and_what_a_living_one_makes_stays(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    place = tmp_path / "out"
    with making(place) as process:
        (half,) = names(tmp_path)
        make(place)
        assert names(tmp_path) == {half, "out"}
        assert (tmp_path / half / "model").read_text() == "half"
        assert not caplog.records
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    make(place)
    assert names(tmp_path) == {"out"}
    assert f"{half} is removed" in caplog.text


def test_nothing_else_beside_it_is_touched(tmp_path: Path) -> None:
    kept = {"out.12345678.new", ".out.new", ".out.1234567.new", ".out.1234567g.new", ".other.12345678.new", "theirs"}
    for name in kept:
        (tmp_path / name).mkdir()
        (tmp_path / name / "thesis").write_text("years of work")
    (tmp_path / ".out.00000000.new").write_text("a file")
    (tmp_path / ".out.11111111.new").symlink_to(tmp_path / "theirs")
    kept |= {".out.00000000.new", ".out.11111111.new"}
    make(tmp_path / "out")
    assert names(tmp_path) == kept | {"out"}
    assert (tmp_path / "theirs" / "thesis").exists()


def test_of_runs_which_have_names_of_their_own_what_any_left_goes(tmp_path: Path) -> None:
    for name in (".one.12345678.new", ".two.12345678.new"):
        (tmp_path / name).mkdir()
    make(tmp_path / "three", alike=True)
    assert names(tmp_path) == {"three"}


def test_the_only_one_that_is_left_of_what_was_replaced_stays(tmp_path: Path) -> None:
    (tmp_path / ".out.12345678.old").mkdir()
    assert clear(tmp_path / "out") == []
    make(tmp_path / "out")
    assert clear(tmp_path / "out") == [tmp_path / ".out.12345678.old"]
    assert clear(tmp_path / "nowhere" / "out") == []


def test_a_new_folder_that_is_cleared_before_it_is_locked_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mkdir, made = Path.mkdir, []

    def cleared_at_first(path: Path, *_: object, **settings: bool) -> None:
        mkdir(path, **settings)  # type: ignore[arg-type]
        made.append(path)
        if len(made) == 1:
            monkeypatch.setattr("fcntl.flock", lambda *_: path.rmdir() if path.exists() else None)

    monkeypatch.setattr(Path, "mkdir", cleared_at_first)
    make(tmp_path / "out")
    assert (len(made), names(tmp_path)) == (2, {"out"})
