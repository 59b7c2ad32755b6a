"""A checkpoint that is not as it was written is not gone on from, and nothing in it is run."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from distill import checkpoint
from distill.callbacks.last import saved
from distill.checkpoint import read, write

Distill = Callable[..., Any]
Same = Callable[[Path], None]


class Exploit:
    """Makes a folder as soon as it is unpickled."""

    def __reduce__(self) -> Any:
        return os.mkdir, ("called",)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1000])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def alter(path: Path) -> None:
    """One bit in the middle of a weight."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def plant(path: Path) -> None:
    """A checkpoint whose seal is right, that runs a command when it is unpickled."""
    write(read(path) | {"callbacks": Exploit()}, path)


def test_the_exploit_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write({}, "last-1.ckpt")
    plant(Path("last-1.ckpt"))
    torch.load("last-1.ckpt", weights_only=False)
    assert Path("called").is_dir()


@pytest.mark.parametrize("damage", [cut, empty, alter])
def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(
    damage: Callable[[Path], None],
    run: Path,
    distill: Distill,
    same: Same,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.chdir(tmp_path)
    (last, path), (before, _) = saved(run / "checkpoints").items()
    damage(path)
    code, out, _ = distill("resume", str(run))
    assert code == 0
    assert f"last-{last}.ckpt" in caplog.text
    assert "the one before is taken" in caplog.text
    assert f"from step {before}" in out
    same(run)


def test_a_checkpoint_with_a_pickle_in_it_is_neither_executed_nor_put_aside(
    run: Path, distill: Distill, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    path = next(iter(saved(run / "checkpoints").values()))
    plant(path)
    code, _, err = distill("resume", str(run))
    assert code == 2
    assert path.name in err
    assert "more than tensors and plain values" in err
    assert path.is_file()
    assert not Path("called").exists()


def test_a_checkpoint_that_cannot_be_read_now_is_not_taken_for_a_damaged_one(
    run: Path, distill: Distill, monkeypatch: pytest.MonkeyPatch
) -> None:
    def trouble(path: Path) -> bool:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(checkpoint, "is_whole", trouble)
    before = saved(run / "checkpoints")
    code, _, err = distill("resume", str(run))
    assert code == 2
    assert "Input/output error" in err
    assert saved(run / "checkpoints") == before


def test_where_all_checkpoints_are_damaged_the_run_begins_again(run: Path, distill: Distill, same: Same) -> None:
    for path in saved(run / "checkpoints").values():
        cut(path)
    code, out, _ = distill("resume", str(run))
    assert code == 0
    assert "from step 0" in out
    same(run)
