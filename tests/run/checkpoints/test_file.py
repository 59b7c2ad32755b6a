"""Checkpoint files: complete or not there, sealed, and written behind the training's back."""

from __future__ import annotations

import copy
import errno
import hashlib
import os
import pickle
import threading
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch

from distill.core.utils.errors import TrainingError, UserError
from distill.run.checkpoints import file as files
from distill.run.checkpoints.bounds import is_dense
from distill.run.checkpoints.file import Damaged, SafeCheckpointIO, is_intact, read, read_header, write
from distill.run.checkpoints.sealed import _Sealed
from distill.run.checkpoints.snapshot import snapshot

SMALL = {"weights": torch.arange(1000.0), "step": 3, "names": ["a", "b"]}


class Exploit:
    """Makes a folder as soon as it is unpickled."""

    def __reduce__(self) -> Any:
        return os.mkdir, ("called",)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    write(SMALL, tmp_path / "a.ckpt")
    found = read(tmp_path / "a.ckpt")
    assert torch.equal(found["weights"], SMALL["weights"])
    assert {k: v for k, v in found.items() if k != "weights"} == {"step": 3, "names": ["a", "b"]}
    assert [path.name for path in tmp_path.iterdir()] == ["a.ckpt"]


def test_a_header_has_its_tensors_still_in_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write({"step": 3, "weight": torch.arange(2000.0)}, path := tmp_path / "a.ckpt")
    load, mapped = torch.load, list[bool]()

    def watched(*given: Any, **more: Any) -> Any:
        mapped.append(more["mmap"])
        return load(*given, **more)

    monkeypatch.setattr(torch, "load", watched)
    header = read_header(path)
    assert (header["step"], mapped) == (3, [True])
    assert torch.equal(header["weight"], torch.arange(2000.0))
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(Damaged):
        read_header(path)


def test_torch_and_zip_open_it_too(tmp_path: Path) -> None:
    write(SMALL, tmp_path / "a.ckpt")
    assert torch.equal(torch.load(tmp_path / "a.ckpt", weights_only=True, mmap=True)["weights"], SMALL["weights"])
    with zipfile.ZipFile(tmp_path / "a.ckpt") as archive:
        assert archive.testzip() is None
        assert len(archive.comment) == 64


@pytest.mark.parametrize("place", ["first", "weights", "before the seal", "in the seal"])
def test_one_altered_bit_is_seen(place: str, tmp_path: Path) -> None:
    path = tmp_path / "a.ckpt"
    write(SMALL, path)
    content = bytearray(path.read_bytes())
    at = {"first": 0, "weights": content.find(SMALL["weights"].numpy().tobytes()) + 9}.get(
        place, len(content) - (65 if place == "before the seal" else 1)
    )
    content[at] ^= 1
    path.write_bytes(content)
    assert not is_intact(path)
    with pytest.raises(Damaged, match="cut off or was altered"):
        read(path)


def test_a_part_of_a_file_is_never_intact(tmp_path: Path) -> None:
    path = tmp_path / "a.ckpt"
    write(SMALL, path)
    content = path.read_bytes()
    for size in (0, 1, 63, 64, 65, 1000, len(content) - 64, len(content) - 1):
        path.write_bytes(content[:size])
        assert not is_intact(path), size
    for path in (tmp_path / "missing.ckpt", tmp_path):
        with pytest.raises(Damaged, match="is not there"):
            read(path)


def test_a_pickle_is_not_executed_even_with_a_seal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write({"state_dict": Exploit()}, "a.ckpt")
    assert is_intact("a.ckpt")
    with pytest.raises(UserError, match="more than tensors"):
        read("a.ckpt")
    assert not Path("called").exists()
    pickle.loads(pickle.dumps(Exploit()))  # it would have worked
    assert Path("called").exists()


class Full:
    """A disk that is full after so many bytes."""

    def __init__(self, room: int) -> None:
        self.room = room

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        pass_on = _Sealed._pass

        def limited(sealed: Any, data: Any) -> None:
            self.room -= len(data)
            if self.room < 0:
                sealed.failed = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                raise sealed.failed
            pass_on(sealed, data)

        monkeypatch.setattr(_Sealed, "_pass", limited)


@pytest.mark.parametrize("room", [0, 10, 300, 2000])
def test_a_full_disk_leaves_the_old_file_and_no_part_of_the_new(
    room: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write({"old": 1}, tmp_path / "a.ckpt")
    Full(room).install(monkeypatch)
    with pytest.raises(OSError, match="No space left"):
        write(SMALL, tmp_path / "a.ckpt")
    assert read(tmp_path / "a.ckpt") == {"old": 1}
    assert len(list(tmp_path.iterdir())) == 1


class Calls:
    """Takes down what is asked of the operating system that a power cut must not undo, in its order."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.seen: list[tuple[str, str]] = []
        fsync, replace = os.fsync, os.replace

        def synced(descriptor: int) -> None:
            size = os.fstat(descriptor).st_size
            path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
            self.seen.append(("sync", str(path) if path.is_dir() else f"{size} bytes"))
            fsync(descriptor)

        def replaced(fresh: Path, path: Path) -> None:
            self.seen.append(("replace", str(path)))
            replace(fresh, path)

        monkeypatch.setattr(os, "fsync", synced)
        monkeypatch.setattr(os, "replace", replaced)


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="no /proc tells which file a descriptor is of")
def test_the_file_is_on_the_disk_before_its_name_is_and_then_the_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls, path = Calls(monkeypatch), tmp_path / "a.ckpt"
    write(SMALL, path)
    whole = f"{path.stat().st_size} bytes"
    assert calls.seen == [("sync", whole), ("replace", str(path)), ("sync", str(tmp_path))]


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="no /proc tells which file a descriptor is of")
def test_the_folder_of_the_checkpoints_is_on_the_disk_too_from_when_it_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls, writer = Calls(monkeypatch), SafeCheckpointIO()
    for name in ("a.ckpt", "b.ckpt"):
        writer.save_checkpoint(SMALL, tmp_path / "run/checkpoints" / name)
    writer.flush()
    folders = [path for what, path in calls.seen if what == "sync" and not path.endswith("bytes")]
    assert folders == [str(tmp_path), str(tmp_path / "run"), *2 * [str(tmp_path / "run/checkpoints")]]


def test_a_snapshot_is_not_changed_by_what_comes_after_and_keeps_ties() -> None:
    weights = torch.ones(3)
    state = {"a": weights, "tied": weights, "more": [weights[:2], {"n": 1}], "empty": torch.ones(0)}
    copied = snapshot(state)
    weights.zero_()
    assert copied["a"].tolist() == [1, 1, 1]
    assert copied["a"] is copied["tied"]
    assert copied["more"][0].tolist() == [1, 1]
    assert copied["more"][1] == {"n": 1}


def test_what_could_not_be_read_again_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"hold callbacks.Mine.best, a numpy.float64"):
        SafeCheckpointIO().save_checkpoint({"callbacks": {"Mine": {"best": numpy.float64(1)}}}, tmp_path / "a.ckpt")
    plain = {"a": [1, 2.0, True, None, "x", (torch.float32, torch.Size([1]))], "b": OrderedDict(c={1})}
    write(snapshot(plain), tmp_path / "a.ckpt")
    assert read(tmp_path / "a.ckpt") == plain


def test_a_write_that_failed_for_another_reason_is_not_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer, done = SafeCheckpointIO(), []
    monkeypatch.setattr(files, "write", lambda *_: 1 / 0)
    writer.save_checkpoint(SMALL, tmp_path / "b.ckpt")
    writer.then(lambda: done.append(1))
    with pytest.raises(ZeroDivisionError):
        writer.flush()
    assert not done


def test_the_step_does_not_wait_for_the_disk_and_never_two_are_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started, resume, running, most = threading.Event(), threading.Event(), 0, 0
    real = files.write

    def slow(checkpoint: Any, path: Path) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        started.set()
        assert resume.wait(10)
        real(checkpoint, path)
        running -= 1

    monkeypatch.setattr(files, "write", slow)
    writer = SafeCheckpointIO()
    writer.save_checkpoint(SMALL, tmp_path / "a.ckpt")
    assert started.wait(10)
    assert not (tmp_path / "a.ckpt").exists()  # save_checkpoint has returned, and the file is still to come
    resume.set()
    writer.save_checkpoint(SMALL, tmp_path / "b.ckpt")
    writer.teardown()
    assert most == 1
    assert is_intact(tmp_path / "a.ckpt")
    assert is_intact(tmp_path / "b.ckpt")


def test_a_checkpoint_that_failed_is_not_said_to_leave_another_where_there_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    Full(100).install(monkeypatch)
    writer = SafeCheckpointIO()
    writer.save_checkpoint(SMALL, tmp_path / "checkpoints/a.ckpt")
    writer.flush()
    assert "the run continues, without any as yet" in caplog.text


def test_what_a_failed_checkpoint_was_to_replace_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    writer = SafeCheckpointIO()
    writer.save_checkpoint(SMALL, tmp_path / "a.ckpt")
    writer.flush()
    full = Full(100)
    full.install(monkeypatch)
    for name in ("b", "c"):
        writer.save_checkpoint(SMALL, tmp_path / f"{name}.ckpt")
        writer.remove_checkpoint(tmp_path / "a.ckpt")
    writer.flush()
    assert [path.name for path in tmp_path.iterdir()] == ["a.ckpt"]
    assert len(caplog.records) == 1
    assert "No space left" in caplog.text
    assert "the run continues, with the last good one kept" in caplog.text
    full.room = 10**6
    writer.save_checkpoint(SMALL, tmp_path / "d.ckpt")
    writer.remove_checkpoint(tmp_path / "a.ckpt")
    writer.flush()
    assert [path.name for path in tmp_path.iterdir()] == ["d.ckpt"]


def sealed(path: Path) -> None:
    """Have the file at ``path`` say that it is as it was written."""
    content = path.read_bytes()
    content = content[:-2] + (64).to_bytes(2, "little")  # the length of the archive's comment
    path.write_bytes(content + hashlib.sha256(content).hexdigest().encode())


def repacked(path: Path, compression: int, copies: int = 1) -> None:
    """Write the archive at ``path`` anew, its records compressed, or each of them under several names."""
    with zipfile.ZipFile(path) as archive:
        records = [(info.filename, archive.read(info)) for info in archive.infolist()]
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in records:
            archive.writestr(name, content)
        for info in list(archive.infolist()) * (copies - 1):  # the same bytes once more, and once more
            archive.filelist.append(copy.copy(info))
    sealed(path)


@pytest.mark.parametrize("how", ["compressed", "over each other", "expanded"])
def test_a_checkpoint_that_unpacks_to_more_than_it_is_is_not_opened(how: str, tmp_path: Path) -> None:
    path = tmp_path / "x.ckpt"
    if how == "expanded":
        write({"state_dict": {"w": torch.zeros(1).expand(1 << 20, 1 << 20)}}, path)
    else:
        write({"state_dict": {"w": torch.zeros(1 << 16)}}, path)
        repacked(
            path, zipfile.ZIP_DEFLATED if how == "compressed" else zipfile.ZIP_STORED, copies=1 + 5 * (how[0] == "o")
        )
    assert is_intact(path)
    with pytest.raises(UserError, match="than it is, and is not opened"):
        read(path)


def test_a_checkpoint_that_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.ckpt")
    with pytest.raises(OSError, match="no regular file"):
        read(tmp_path / "x.ckpt")


def without_its_pickle(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/version", "3")


def of_no_text(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("é", "3")
    path.write_bytes(path.read_bytes().replace("é".encode(), b"\xff\xfe"))


@pytest.mark.parametrize("made", [without_its_pickle, of_no_text])
def test_an_archive_that_is_sealed_and_no_checkpoint_is_refused(made: Callable[[Path], None], tmp_path: Path) -> None:
    made(tmp_path / "x.ckpt")
    sealed(tmp_path / "x.ckpt")
    assert is_intact(tmp_path / "x.ckpt")
    with pytest.raises(UserError, match="and is not opened"):
        read(tmp_path / "x.ckpt")


def test_values_that_hold_each_other_are_looked_at_once() -> None:
    value: list[Any] = [torch.zeros(1)]
    for _ in range(60):  # of a checkpoint of a few hundred bytes
        value = [value, value]
    value.append(value)
    assert is_dense(value)


@pytest.mark.parametrize(
    "tensor",
    [torch.zeros(1 << 40, device="meta"), torch.sparse_coo_tensor(size=(1 << 30, 1 << 30), check_invariants=False)],
    ids=str,
)
def test_a_tensor_that_stands_for_more_than_it_holds_is_none_of_a_run(tensor: torch.Tensor) -> None:
    assert not is_dense({"state_dict": {"w": tensor}})


def test_where_the_new_file_cannot_take_its_place_the_old_one_has_it_still(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    write({"old": 1}, tmp_path / "a.ckpt")
    monkeypatch.setattr(os, "replace", refused)
    with pytest.raises(OSError, match="Input/output error"):
        write(SMALL, tmp_path / "a.ckpt")
    assert read(tmp_path / "a.ckpt") == {"old": 1}
    assert len(list(tmp_path.iterdir())) == 1
