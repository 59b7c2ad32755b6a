"""One process writes a run; who only looks disturbs nobody, and needs no leave to write."""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from distill.core.utils.errors import UserError
from distill.run.lock import held, locked


def test_a_lock_is_held_for_as_long_as_it_says(tmp_path: Path) -> None:
    file = tmp_path / ".lock"
    assert not held(file)
    with locked(file):
        assert held(file)
        with pytest.raises(UserError, match=rf"process {os.getpid()} on .* is writing this run"), locked(file):
            pass
        assert held(file)
    assert not held(file)


def test_two_who_look_at_once_do_not_take_each_other_for_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / ".lock"
    file.touch()
    flock, found = fcntl.flock, []

    def meanwhile(descriptor: int, how: int) -> None:
        flock(descriptor, how)
        monkeypatch.setattr(fcntl, "flock", flock)
        found.append(held(file))

    monkeypatch.setattr(fcntl, "flock", meanwhile)
    assert held(file) is False
    assert found == [False]


def test_a_run_that_is_not_ours_to_write_is_seen_to_be_running(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, opened = tmp_path / ".lock", os.open

    def reading_only(path: Any, flags: int, mode: int = 0o777) -> int:
        if flags & (os.O_WRONLY | os.O_RDWR):
            raise PermissionError(errno.EACCES, "Permission denied")
        return opened(path, flags, mode)

    with locked(file):
        monkeypatch.setattr(os, "open", reading_only)
        assert held(file)


def test_a_forked_process_that_outlives_the_run_does_not_hold_it(tmp_path: Path) -> None:
    file = tmp_path / ".lock"
    code = """if True:
        import os, sys
        from pathlib import Path
        from distill.run.lock import locked
        with locked(Path(sys.argv[1])):
            if os.fork():
                os._exit(0)
            print("forked", flush=True)
            sys.stdin.read()
        print("left", flush=True)  # and what it does not hold it does not close
    """
    command = [sys.executable, "-c", code, str(file)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == "forked\n"
        process.wait()
        assert not held(file)
        process.stdin.close()
        assert process.stdout.read() == "left\n"


def test_a_fork_does_not_end_its_parents_lock(tmp_path: Path) -> None:
    code = """if True:
        import os, sys
        from pathlib import Path
        from distill.run.lock import held, locked
        file = Path(sys.argv[1])
        with locked(file):
            if not os.fork():
                os._exit(0)
            os.wait()
            print(held(file))
        print(held(file))
    """
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / ".lock")], capture_output=True, check=True)
    assert done.stdout.split() == [b"True", b"False"]


def test_what_cannot_be_locked_is_reported_with_a_hint(tmp_path: Path) -> None:
    file = tmp_path / ".lock"
    file.mkdir()
    with pytest.raises(UserError, match=r": \.lock cannot be locked \(Is a directory\)\. check that"), locked(file):
        pass
    assert not held(file)


def test_a_file_system_without_locks_is_reported_with_a_hint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    file = tmp_path / ".lock"
    monkeypatch.setattr(fcntl, "flock", refuse)
    before = os.listdir("/proc/self/fd")
    with pytest.raises(UserError, match=r"No locks available.*without locks"), locked(file):
        pass
    assert not held(file)
    assert os.listdir("/proc/self/fd") == before


def test_what_goes_wrong_in_a_run_is_not_laid_to_its_lock(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="the disk is full"), locked(tmp_path / ".lock"):
        raise OSError("the disk is full")
    assert not held(tmp_path / ".lock")


def test_a_program_that_was_started_and_outlives_the_run_does_not_hold_it(tmp_path: Path) -> None:
    file = tmp_path / ".lock"
    with locked(file):
        # What is inherited over exec, other than what says that it is not, is what `close_fds` would close.
        child = subprocess.Popen(["cat"], stdin=subprocess.PIPE, close_fds=False)
    with child:
        assert not held(file)
        with locked(file):
            assert held(file)
        assert child.poll() is None
