"""Runs whose disk is full, or may not be written to."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from distill.models import saved_student
from distill.run.checkpoints import file as checkpoint
from distill.run.checkpoints.file import is_intact, read
from distill.run.checkpoints.names import resume_checkpoints
from distill.run.folder import Run
from distill.training.module import Distillation

Distill = Callable[..., Any]
Fitted = Callable[..., Path]


def full(*arguments: Any, **more: Any) -> Any:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.fixture
def elsewhere_the_same(world: Any, differences: Callable[[Any, Any], list[str]]) -> Callable[[Path], None]:
    """Requires that a run ended as the undisturbed one, whose configuration names another folder."""

    def check(run: Path) -> None:
        for name in ("metrics.csv", "student/model.safetensors", "student/compression.json"):
            assert (run / name).read_bytes() == (world.whole / name).read_bytes()
        ours, theirs = (read(folder / "checkpoints/last-14.ckpt") for folder in (run, world.whole))
        assert [place for place in differences(ours, theirs) if not place.startswith(".config:")] == []

    return check


# ---------------------------------------------------------------------- small disks


class End(NamedTuple):
    """What a command ended with and said, and what was left of its run."""

    code: int
    out: str
    err: str
    left: Path


@pytest.fixture(scope="module")
def ends(world: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, End]:
    """Of runs on real small disks, by what is wrong with them (``small_disk.py``)."""
    # Of a namespace of its own nothing is seen outside, and nothing is left; others than root become root in it.
    alone = ["unshare", "--mount", *([] if os.geteuid() == 0 else ["--map-root-user"])]
    disks, results = tmp_path_factory.mktemp("disks"), tmp_path_factory.mktemp("results")
    try:
        mount = [*alone, "mount", "-t", "tmpfs", "tmpfs", str(disks)]
        subprocess.run(mount, check=True, capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("no small disk can be made: there is no unshare or mount here")
    except subprocess.CalledProcessError as error:
        pytest.skip(f"no small disk can be made: {error.stderr.strip()}")
    script = Path(__file__).with_name("small_disk.py")
    command = [*alone, sys.executable, script, world.folder / "base.yaml", world.stopped, disks, results]
    done = subprocess.run(
        list(map(str, command)), env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    said = json.loads((results / "said.json").read_text())
    return {name: End(*end, results / name) for name, end in said.items()}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("trouble", "reason", "steps"),
    [
        ("full", "No space left on device", [8, 7]),
        ("read only", "Read-only file system", [8, 7]),
        ("tiny", "No space left on device", []),
    ],
)
def test_a_run_that_cannot_write_says_so_and_ends_as_an_undisturbed_one_once_it_can(
    trouble: str,
    reason: str,
    steps: list[int],
    ends: dict[str, End],
    distill: Distill,
    elsewhere_the_same: Callable[[Path], None],
    tmp_path: Path,
) -> None:
    code, out, err, left = ends[trouble]
    assert code == 1
    assert err.count("distill: error") == 1
    assert f"cannot be written to ({reason})" in err
    assert "distill resume" in err
    assert "Traceback" not in out + err
    assert list(resume_checkpoints(left / "checkpoints")) == steps
    assert ("last good checkpoint is kept" in err) == bool(steps)
    assert all(is_intact(path) for path in resume_checkpoints(left / "checkpoints").values())
    assert not (left / "result.json").exists()
    assert not (left / "student").exists()
    run = Path(shutil.copytree(left, tmp_path / "base/run"))  # where there is room, and nothing is read only
    code, out, err = distill("resume", str(run))
    assert code == 0, err
    assert f"from step {max(steps, default=0)}" in out
    assert not list((run / "checkpoints").glob(".*"))
    elsewhere_the_same(run)


@pytest.mark.slow
@pytest.mark.parametrize(("trouble", "number"), [("full", errno.ENOSPC), ("read only", errno.EROFS)])
def test_tensorboard_is_left_out_for_the_reason_that_there_is(trouble: str, number: int, ends: dict[str, End]) -> None:
    [line] = [line for line in ends[trouble].err.splitlines() if "TensorBoard" in line]
    assert f"could not log (OSError({number}, {os.strerror(number)!r}))" in line
    assert "not supported" not in ends[trouble].err


@pytest.mark.parametrize("command", ["fit", "resume"])
def test_a_folder_that_may_not_be_written_to_is_refused_and_left_as_it_was(
    command: str, ends: dict[str, End], world: Any, hashes: Callable[[Path], dict[str, str]]
) -> None:
    code, out, err, left = ends[command]
    assert code == 2
    assert err.count("distill: error") == 1
    assert "Traceback" not in out + err
    left = left.with_name("never")
    assert [path.name for path in left.iterdir()] == ["run"]
    assert hashes(left / "run") == hashes(world.stopped)


# ---------------------------------------------------------------------- writes that fail


@pytest.mark.slow
def test_a_quota_that_is_used_up_is_said_and_the_run_ends_as_an_undisturbed_one_once_there_is_more(
    distill: Distill,
    world: Any,
    elsewhere_the_same: Callable[[Path], None],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    # A network's file system takes what is written, and says at the flush that it was too much.
    def sync(file: int) -> None:
        saved = re.search(r"last-(\d+)", os.readlink(f"/proc/self/fd/{file}"))  # by a thread that may lag behind
        if Distillation.steps > 9 and (saved is None or int(saved[1]) > 8):
            raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))
        flush(file)

    def training_step(self: Any, *given: Any) -> Any:
        Distillation.steps = self.global_step + 1
        return step(self, *given)

    flush, step = os.fsync, Distillation.training_step
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", sync)
        patch.setattr(Distillation, "steps", 0, raising=False)
        patch.setattr(Distillation, "training_step", training_step)
        fit = ("fit", "-c", str(world.folder / "base.yaml"), "--id", "run", "--runs", str(tmp_path))
        code, out, err = distill(*fit)
    run = tmp_path / "base/run"
    assert code == 1
    assert err.count("distill: error") == 1
    assert "cannot be written to (Disk quota exceeded)" in err
    assert f"distill resume {run}" in err
    assert "Traceback" not in out + err
    assert [path.name for path in run.glob("**/.*.new")] == []
    # Of which 7 is the end of an epoch. The writer's thread may have been stopped before it removed 6, and no other.
    assert list(resume_checkpoints(run / "checkpoints")) in ([8, 7], [8, 7, 6])
    assert distill("resume", str(run)).code == 0
    assert not {8, 7, 6} & set(resume_checkpoints(run / "checkpoints"))  # no run keeps what another was to remove
    elsewhere_the_same(run)


def test_a_run_continues_without_room_for_checkpoints(
    fitted: Fitted, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(checkpoint, "write", full)
    folder = fitted()
    [told] = [record.getMessage() for record in caplog.records if "No space left" in record.getMessage()]
    assert "the run continues, without any as yet" in told
    assert "kept" not in told
    run = Run.open(folder)
    assert not list(run.checkpoints.glob("*"))
    assert run.result["saved_step"] == 2
    assert (run.student / "model.safetensors").is_file()


def test_a_run_without_room_for_its_student_says_so_and_can_be_resumed(
    base: dict[str, Any], distill: Distill, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(saved_student, "save", full)
        code, out, err = distill("fit", "-c", "base.yaml", "--id", "one")
    assert code == 1
    assert "No space left on device" in err
    assert "distill resume" in err
    assert "Traceback" not in out + err
    run = Run.open("runs/base/one")
    assert run.state == "interrupted"
    assert not run.student.exists()
    assert distill("resume", "runs/base/one").code == 0
    assert run.state == "finished"
    assert (run.student / "model.safetensors").is_file()


def test_a_run_that_cannot_begin_leaves_nothing(
    base: dict[str, Any], distill: Distill, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("distill.run.folder.write", full)
    code, out, err = distill("fit", "-c", "base.yaml", "--id", "one")
    assert code == 2
    assert "No space left on device" in err
    assert "Traceback" not in out + err
    assert not Path("runs").exists()
