"""What ``distill resume`` makes of a run that was stopped, killed, moved or finished."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from distill.run.checkpoints.names import resume_checkpoints
from distill.run.folder import Run

AtCall = Callable[..., None]
Distill = Callable[..., Any]
Hashes = Callable[[Path], dict[str, str]]
Same = Callable[[Path], None]
Script = Callable[..., Any]
World = Any

STEPS, STOP = 14, 9  # of the runs; done when they are stopped


def send(number: int) -> Callable[[], None]:
    return lambda: os.kill(os.getpid(), number)


def steps(run: Path) -> list[int]:
    """Those that the run can resume from, the newest first."""
    return list(resume_checkpoints(run / "checkpoints"))


def code_of(distill: Distill, *argv: str) -> int:
    """The exit code, in whichever way the command gives it."""
    try:
        return int(distill(*argv).code)
    except SystemExit as end:
        return int(end.code or 0)


# ---------------------------------------------------------------------- stopped


@pytest.mark.parametrize(
    ("number", "place", "count"),
    [
        (signal.SIGTERM, "training_step", STOP),
        pytest.param(signal.SIGINT, "training_step", STOP, marks=pytest.mark.slow),
        pytest.param(signal.SIGTERM, "validation_step", 2, marks=pytest.mark.slow),  # the first is the sanity check
    ],
    ids=["SIGTERM", "SIGINT", "SIGTERM in a validation"],
)
def test_a_run_that_a_signal_stops_says_so_and_resumes_as_if_nothing_had_been(
    at_call: AtCall, number: signal.Signals, place: str, count: int, world: World, distill: Distill, same: Same
) -> None:
    run = world.folder / f"runs/base/{number.name}-{place}"
    with pytest.MonkeyPatch.context() as patch:
        at_call(patch, place, count, send(number))
        assert code_of(distill, "fit", "-c", str(world.folder / "base.yaml"), "--id", run.name) == 128 + number
    assert not (run / "result.json").exists()
    assert Run(run).state == "interrupted"
    # The step that was under way is finished, and so is the validation that ends it.
    assert steps(run)[0] == (STOP if place == "training_step" else 5)
    code, out, _ = distill("resume", str(run))
    assert code == 0
    assert "validation samples" not in out.partition("resuming")[2]  # what was said when the run began
    same(run)


def test_an_interrupt_when_the_finished_student_is_judged_is_one(
    at_call: AtCall, world: World, distill: Distill, same: Same
) -> None:
    from pytorch_lightning import Trainer

    run, original = world.folder / "runs/base/judged", Trainer.validate
    with pytest.MonkeyPatch.context() as patch:

        def validate(*given: Any, **named: Any) -> Any:
            at_call(patch, "validation_step", 1, send(signal.SIGINT))
            return original(*given, **named)

        patch.setattr(Trainer, "validate", validate)
        assert code_of(distill, "fit", "-c", str(world.folder / "base.yaml"), "--id", run.name) == 130
    assert not (run / "result.json").exists()
    assert distill("resume", str(run)).code == 0
    same(run)


def pending(pid: int | None) -> bool:
    """Whether a process has been sent a signal and not taken it yet, as far as the system tells."""
    status = Path(f"/proc/{pid}/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return any(int(line.split()[1], 16) for line in lines if line.startswith(("SigPnd", "ShdPnd")))


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_a_run_all_of_whose_processes_are_told_to_stop_finishes_its_step_and_saves(
    number: signal.Signals, at_call: AtCall, world: World, distill: Distill
) -> None:
    def tell() -> None:
        workers = multiprocessing.active_children()
        assert workers
        # Not from this process, whom they heed.
        subprocess.run(["kill", f"-{int(number)}", *(str(w.pid) for w in workers), str(os.getpid())], check=True)
        limit = time.monotonic() + 120
        while any(pending(worker.pid) for worker in workers):
            assert time.monotonic() < limit, "a worker has not taken its signal"
            time.sleep(0.01)
        assert all(worker.is_alive() for worker in workers)

    with pytest.MonkeyPatch.context() as patch:
        at_call(patch, "training_step", STOP, tell)
        argv = ("fit", "-c", str(world.folder / "base.yaml"), "--id", f"all-{number.name}", "--data.num_workers", "2")
        assert code_of(distill, *argv) == 128 + number
    run = world.folder / f"runs/base/all-{number.name}"
    assert steps(run)[0] == STOP
    assert distill("resume", str(run)).code == 0


def test_the_signals_are_given_back(world: World) -> None:
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


@pytest.mark.slow
def test_the_second_of_two_signals_ends_the_run_at_once(
    world: World, script: Script, distill: Distill, same: Same
) -> None:
    patch = f"at_call(Distillation, 'training_step', {STOP}, lambda *_: [os.kill(os.getpid(), 15) for _ in range(2)])"
    assert "once more stops at once" in process(script, world, "at-once", patch, code=143)
    run = world.folder / "runs/base/at-once"
    assert 0 < steps(run)[0] < STOP
    assert distill("resume", str(run)).code == 0
    same(run)


HEAD = """
import itertools, os, sys
from distill.run.checkpoints import file as checkpoint
from distill.run.checkpoints import sealed
from distill.cli.main import main
from distill.training.module import Distillation

def at_call(owner, name, count, action):
    original, calls = getattr(owner, name), itertools.count(1)
    def called(*given):
        if next(calls) == count:
            action(*given)
        return original(*given)
    setattr(owner, name, called)

"""
IN_A_STEP = f"at_call(Distillation, 'training_step', {STOP}, lambda *_: os.kill(os.getpid(), 9))"
IN_A_WRITE = """
def cut(file, data):
    file.file.write(data[: len(data) // 2])
    file.file.flush()
    os.kill(os.getpid(), 9)

def doom(*given):
    at_call(sealed._Sealed, 'write', 40, cut)

at_call(checkpoint, 'write', 4, doom)
"""


def process(script: Script, world: World, name: str, patch: str, code: int) -> str:
    """What is said by a run in a process of its own, with something done to it, which has to end with ``code``."""
    file = world.folder / f"{name}.py"
    file.write_text(f"{HEAD}{patch}\nsys.exit(main(sys.argv[1:]))")
    with contextlib.chdir(world.folder):
        return str(script(file, "fit", "-c", "base.yaml", "--id", name, code=code).err)


@pytest.mark.slow
@pytest.mark.parametrize("patch", [pytest.param(IN_A_STEP, marks=pytest.mark.slow), IN_A_WRITE], ids=["step", "write"])
def test_a_run_that_was_killed_resumes_as_if_nothing_had_been(
    patch: str, world: World, script: Script, distill: Distill, same: Same
) -> None:
    run = world.folder / f"runs/base/killed-{'write' if patch == IN_A_WRITE else 'step'}"
    process(script, world, run.name, patch, code=-signal.SIGKILL)
    left = list((run / "checkpoints").glob(".last-*.new"))
    assert left or patch == IN_A_STEP  # a step may be killed in a write, too
    assert 0 < steps(run)[0] < STEPS
    assert distill("resume", str(run)).code == 0
    same(run)
    assert not list((run / "checkpoints").glob(".*"))


def test_a_resumed_run_can_be_stopped_and_resumed(at_call: AtCall, run: Path, distill: Distill, same: Same) -> None:
    with pytest.MonkeyPatch.context() as patch:
        at_call(patch, "training_step", 2, send(signal.SIGTERM))
        assert code_of(distill, "resume", str(run)) == 143
    assert steps(run)[0] == STOP + 2
    assert distill("resume", str(run)).code == 0
    same(run)


def test_a_run_whose_training_had_ended_is_only_concluded(
    at_call: AtCall, world: World, tmp_path: Path, distill: Distill, same: Same
) -> None:
    run = Path(shutil.copytree(world.whole, tmp_path / "base/run"))
    (run / "result.json").unlink()
    shutil.rmtree(run / "student")
    with pytest.MonkeyPatch.context() as patch:
        at_call(patch, "training_step", 1, lambda: pytest.fail("it was trained"))
        assert distill("resume", str(run)).code == 0
    same(run)


def test_a_finished_run_is_left_as_it_is(world: World, tmp_path: Path, distill: Distill, hashes: Hashes) -> None:
    run = Path(shutil.copytree(world.whole, tmp_path / "base/run"))
    before = hashes(run)
    code, out, _ = distill("resume", str(run))
    assert code == 0
    assert "has finished" in out
    assert hashes(run) == before


def test_a_run_without_a_checkpoint_begins_again_with_the_same_bits(run: Path, distill: Distill, same: Same) -> None:
    shutil.rmtree(run / "checkpoints")
    code, out, _ = distill("resume", str(run))
    assert code == 0
    assert "from step 0" in out
    same(run)


# ---------------------------------------------------------------------- elsewhere, at another time


def test_neither_the_working_folder_nor_the_clock_is_part_of_a_run(
    run: Path, distill: Distill, same: Same, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    now = time.time
    monkeypatch.setattr(time, "time", lambda: now() - 400 * 86400)
    assert distill("resume", str(run)).code == 0
    monkeypatch.undo()
    time.tzset()
    same(run)


def test_a_run_begun_with_relative_paths_resumes_in_another_folder(
    at_call: AtCall, world: World, distill: Distill, same: Same, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(world.folder)
    places = ("--model.teacher.path", "teacher", "--data.path", "data")
    with pytest.MonkeyPatch.context() as patch:
        at_call(patch, "training_step", STOP, send(signal.SIGTERM))
        assert code_of(distill, "fit", "-c", "base.yaml", "--id", "relative", *places) == 143
    monkeypatch.chdir(tmp_path)
    run = world.folder / "runs/base/relative"
    assert distill("resume", str(run)).code == 0
    same(run)


def test_a_runs_folder_may_be_moved(
    run: Path, distill: Distill, same: Same, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    moved = tmp_path / "other/name"
    moved.parent.mkdir()
    run.rename(moved)
    assert distill("resume", str(moved)).code == 0
    same(moved)
    assert "not followed" not in caplog.text
    assert not run.exists()
    assert Run(moved).result["id"] == "stopped"  # an id is for life


# ---------------------------------------------------------------------- extended, or ended early


def test_a_finished_run_is_extended(world: World, tmp_path: Path, distill: Distill) -> None:
    run = Path(shutil.copytree(world.whole, tmp_path / "base/run"))
    code, out, _ = distill("resume", str(run), "--max-epochs", "3")
    assert code == 0
    assert f"from step {STEPS}" in out
    assert Run(run).result["steps"] == STEPS + STEPS // 2
    assert yaml.safe_load((run / "config.yaml").read_text())["trainer"]["max_epochs"] == 3
    history = (world.whole / "metrics.csv").read_text()
    assert (run / "metrics.csv").read_text().startswith(history)
    assert len((run / "metrics.csv").read_text()) > len(history)


def test_an_extension_that_the_other_limit_leaves_no_room_for_is_refused(
    world: World, tmp_path: Path, distill: Distill
) -> None:
    run = Path(shutil.copytree(world.whole, tmp_path / "base/run"))
    code, _, err = distill("resume", str(run), "--max-steps", str(STEPS + 3))
    assert code == 2
    assert "trainer.max_epochs = 2: the run has done that many already" in err
    assert "give --max-epochs too" in err


@pytest.mark.slow
def test_an_extension_that_ended_before_it_saved_anything_is_taken_up_again(
    at_call: AtCall, world: World, tmp_path: Path, distill: Distill
) -> None:
    run = Path(shutil.copytree(world.whole, tmp_path / "base/run"))

    def fail() -> None:
        raise RuntimeError("the machine is gone")

    with pytest.MonkeyPatch.context() as patch:
        at_call(patch, "training_step", 1, fail)
        with pytest.raises(RuntimeError, match="the machine is gone"):
            distill("resume", str(run), "--max-epochs", "3")
    assert distill("resume", str(run)).code == 0
    assert Run(run).result["steps"] == STEPS + STEPS // 2


def test_training_that_a_callback_ended_is_not_taken_up_again(
    world: World, changed: Callable[..., dict[str, Any]], distill: Distill, tmp_path: Path
) -> None:
    stop = {"monitor": "val/accuracy", "mode": "max", "patience": 1}
    callbacks = [{"class_path": "pytorch_lightning.callbacks.EarlyStopping", "init_args": stop}]
    changes = {"trainer": {"max_epochs": 9, "val_check_interval": 3}, "callbacks": callbacks, "runs": str(tmp_path)}
    (tmp_path / "early.yaml").write_text(
        yaml.safe_dump(changed(yaml.safe_load((world.folder / "base.yaml").read_text()), changes))
    )
    assert distill("fit", "-c", str(tmp_path / "early.yaml"), "--id", "one").code == 0
    run = tmp_path / "early/one"
    before, history = Run(run).result, (run / "metrics.csv").read_bytes()
    assert before["steps"] < 9 * STEPS // 2
    (run / "result.json").unlink()
    shutil.rmtree(run / "student")
    assert distill("resume", str(run)).code == 0
    assert {**Run(run).result, "train_seconds": 0} == {**before, "train_seconds": 0}
    assert (run / "metrics.csv").read_bytes() == history
