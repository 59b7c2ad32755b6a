"""What ``distill resume`` makes of a run that was stopped, killed, damaged, changed, moved or finished."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml
from safetensors.torch import load_file, save_file

from distill.callbacks.last import saved
from distill.checkpoint import read, write
from distill.cli import main
from distill.module import Distillation
from distill.run import Run

Distill = Callable[..., Any]
Same = Callable[[Path], None]

STEPS, STOP = 14, 9  # of the run; done when it is stopped


class World(NamedTuple):
    """A folder with a teacher, data and a configuration, and two runs of it: one undisturbed and one stopped."""

    folder: Path
    whole: Path
    stopped: Path


def at_call(patch: pytest.MonkeyPatch, name: str, count: int, action: Callable[[], object]) -> None:
    """Have the module do something in the ``count``-th call of a method."""
    original, calls = getattr(Distillation, name), iter(range(1, 1000))

    def step(self: Any, *given: Any) -> Any:
        if next(calls) == count:
            action()
        return original(self, *given)

    patch.setattr(Distillation, name, step)


def send(number: int) -> Callable[[], None]:
    return lambda: os.kill(os.getpid(), number)


@pytest.fixture(scope="session")
def world(
    tmp_path_factory: pytest.TempPathFactory,
    recipe: dict[str, Any],
    teacher_dir: str,
    text_folder: str,
    changed: Callable[..., dict[str, Any]],
    joint: list[dict[str, Any]],
) -> World:
    folder = tmp_path_factory.mktemp("world")
    shutil.copytree(teacher_dir, folder / "teacher")
    shutil.copytree(text_folder, folder / "data")
    keep = {"class_path": "Last", "init_args": {"every_n_steps": 2}}
    changes = {
        "model": {"teacher": {"path": str(folder / "teacher")}},
        "data": {"path": str(folder / "data"), "train_samples": 55},
        "trainer": {"max_epochs": 2, "max_steps": -1, "val_check_interval": 5, "log_every_n_steps": 1},
        "callbacks": [*joint, keep],
        "runs": str(folder / "runs"),
    }
    (folder / "base.yaml").write_text(yaml.safe_dump(changed(recipe, changes)))
    fit = ["fit", "-c", str(folder / "base.yaml"), "--id"]
    assert main([*fit, "whole"]) == 0
    with pytest.MonkeyPatch.context() as patch:
        at_call(patch, "training_step", STOP, send(signal.SIGTERM))
        with pytest.raises(SystemExit, match="143"):
            main([*fit, "stopped"])
    runs = folder / "runs/base"
    return World(folder, runs / "whole", runs / "stopped")


@pytest.fixture
def run(world: World, tmp_path: Path) -> Path:
    """A copy of the stopped run."""
    return Path(shutil.copytree(world.stopped, tmp_path / "base/run"))


@pytest.fixture
def same(world: World, differences: Callable[[Any, Any], list[str]]) -> Same:
    """Requires that a run ended as the undisturbed one: history, scores, the student's bits, the last checkpoint."""

    def check(run: Path) -> None:
        assert (run / "metrics.csv").read_bytes() == (world.whole / "metrics.csv").read_bytes()
        for name in ("scores", "steps", "saved_step", "complete"):
            assert result(run)[name] == result(world.whole)[name]
        for name in ("model.safetensors", "compression.json"):
            assert (run / "student" / name).read_bytes() == (world.whole / "student" / name).read_bytes()
        ours, theirs = (read(folder / f"checkpoints/last-{STEPS}.ckpt") for folder in (run, world.whole))
        assert differences(ours, theirs) == []

    return check


def result(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / "result.json").read_text())
    return found


def hashes(run: Path) -> dict[str, str]:
    """Of every file, but for the lock, which says who writes."""
    files = [path for path in run.rglob("*") if path.is_file() and path.name != ".lock"]
    return {str(path.relative_to(run)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def steps(run: Path) -> list[int]:
    """Those that the run can go on from, the newest first."""
    return list(saved(run / "checkpoints"))


def newest(run: Path) -> Path:
    return next(iter(saved(run / "checkpoints").values()))


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
        (signal.SIGINT, "training_step", STOP),
        (signal.SIGTERM, "validation_step", 2),  # the first is the sanity check
    ],
    ids=["SIGTERM", "SIGINT", "SIGTERM in a validation"],
)
def test_a_run_that_a_signal_stops_says_so_and_goes_on_as_if_nothing_had_been(
    number: signal.Signals, place: str, count: int, world: World, distill: Distill, same: Same
) -> None:
    run = world.folder / f"runs/base/{number.name}-{place}"
    with pytest.MonkeyPatch.context() as patch:
        at_call(patch, place, count, send(number))
        assert code_of(distill, "fit", "-c", str(world.folder / "base.yaml"), "--id", run.name) == 128 + number
    assert not (run / "result.json").exists()
    assert Run(run).state == "interrupted"
    # The step that was under way is finished, and so is the validation that ends it.
    assert steps(run)[0] == (STOP if place == "training_step" else 5)
    assert distill("resume", str(run)).code == 0
    same(run)


def test_the_signals_are_given_back(world: World) -> None:
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_the_second_of_two_signals_ends_the_run_at_once(world: World, distill: Distill, same: Same) -> None:
    patch = f"at_call(Distillation, 'training_step', {STOP}, lambda *_: [os.kill(os.getpid(), 15) for _ in range(2)])"
    done = process(world, "at-once", patch)
    assert done.returncode == 143
    assert "once more stops at once" in done.stderr
    run = world.folder / "runs/base/at-once"
    assert 0 < steps(run)[0] < STOP
    assert distill("resume", str(run)).code == 0
    same(run)


HEAD = """
import itertools, os, sys
from distill import checkpoint
from distill.cli import main
from distill.module import Distillation

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
    at_call(checkpoint._Sealed, 'write', 40, cut)

at_call(checkpoint, 'write', 4, doom)
"""


def process(world: World, name: str, patch: str) -> subprocess.CompletedProcess[str]:
    """Begin a run in a process of its own, with something done to it."""
    code = f"{HEAD}{patch}\nsys.exit(main(sys.argv[1:]))"
    argv = ["fit", "-c", str(world.folder / "base.yaml"), "--id", name]
    return subprocess.run(
        [sys.executable, "-c", code, *argv], capture_output=True, text=True, timeout=300, check=False, cwd=world.folder
    )


@pytest.mark.parametrize("patch", [pytest.param(IN_A_STEP, marks=pytest.mark.slow), IN_A_WRITE], ids=["step", "write"])
def test_a_run_that_was_killed_goes_on_as_if_nothing_had_been(
    patch: str, world: World, distill: Distill, same: Same
) -> None:
    run = world.folder / f"runs/base/killed-{'write' if patch == IN_A_WRITE else 'step'}"
    done = process(world, run.name, patch)
    assert done.returncode == -signal.SIGKILL, done.stderr[-2000:]
    left = list((run / "checkpoints").glob(".last-*.new"))
    assert bool(left) == (patch == IN_A_WRITE)
    assert 0 < steps(run)[0] < STEPS
    assert distill("resume", str(run)).code == 0
    same(run)


def test_a_resumed_run_can_be_stopped_and_resumed(run: Path, distill: Distill, same: Same) -> None:
    with pytest.MonkeyPatch.context() as patch:
        at_call(patch, "training_step", 2, send(signal.SIGTERM))
        assert code_of(distill, "resume", str(run)) == 143
    assert steps(run)[0] == STOP + 2
    assert distill("resume", str(run)).code == 0
    same(run)


def test_a_run_whose_training_had_ended_is_only_concluded(
    world: World, tmp_path: Path, distill: Distill, same: Same
) -> None:
    run = Path(shutil.copytree(world.whole, tmp_path / "base/run"))
    (run / "result.json").unlink()
    shutil.rmtree(run / "student")
    with pytest.MonkeyPatch.context() as patch:
        at_call(patch, "training_step", 1, lambda: pytest.fail("it was trained"))
        assert distill("resume", str(run)).code == 0
    same(run)


def test_a_finished_run_is_left_as_it_is(world: World, tmp_path: Path, distill: Distill) -> None:
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


# ---------------------------------------------------------------------- damaged


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


@pytest.mark.parametrize("damage", [cut, empty, alter, plant])
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
    last, before = steps(run)
    damage(newest(run))
    code, out, _ = distill("resume", str(run))
    assert code == 0
    assert f"last-{last}.ckpt" in caplog.text
    assert "the one before is taken" in caplog.text
    assert f"from step {before}" in out
    assert not Path("called").exists()
    same(run)


def test_where_all_checkpoints_are_damaged_the_run_begins_again(run: Path, distill: Distill, same: Same) -> None:
    for path in saved(run / "checkpoints").values():
        cut(path)
    code, out, _ = distill("resume", str(run))
    assert code == 0
    assert "from step 0" in out
    same(run)


# ---------------------------------------------------------------------- changed


@pytest.fixture
def refused(distill: Distill) -> Callable[..., str]:
    """What is said as ``distill resume`` refuses a run, in whose folder nothing is written."""

    def check(run: Path, *argv: str) -> str:
        before = hashes(run)
        code, out, err = distill("resume", str(run), *argv)
        assert code == 2, out
        assert err.count("distill: error: ") == 1
        assert "Traceback" not in out + err
        assert hashes(run) == before
        return str(err[err.index("distill: error: ") :])

    return check


@pytest.fixture
def mended(world: World) -> Iterator[Callable[[str], Path]]:
    """A file of the world, to be altered; it is put back in the end."""
    before: dict[Path, bytes] = {}

    def take(name: str) -> Path:
        path = world.folder / name
        before[path] = path.read_bytes()
        return path

    yield take
    for path, content in before.items():
        path.write_bytes(content)


def test_another_teacher_is_refused(run: Path, refused: Callable[..., str], mended: Callable[[str], Path]) -> None:
    path = mended("teacher/model.safetensors")
    weights = load_file(path)
    weights["classifier.bias"] += 1e-6
    save_file(weights, path, {"format": "pt"})
    said = refused(run)
    assert "model.teacher: this is not the teacher that the run began with" in said
    assert "give it back as it was" in said


def test_another_tokenizer_is_refused(run: Path, refused: Callable[..., str], mended: Callable[[str], Path]) -> None:
    path = mended("teacher/tokenizer.json")
    content = json.loads(path.read_text())
    vocabulary = content["model"]["vocab"]
    vocabulary["good"], vocabulary["bad"] = vocabulary["bad"], vocabulary["good"]
    path.write_text(json.dumps(content))
    said = refused(run)
    assert "tokenizer" in said
    assert "give it back as it was" in said


def test_other_training_data_are_refused(run: Path, refused: Callable[..., str], mended: Callable[[str], Path]) -> None:
    path = mended("data/train.jsonl")
    path.write_text(path.read_text().replace("story", "film"))
    said = refused(run)
    assert "data: the training data, as it is tokenised, is not that of the run" in said
    assert "give it back as it was" in said


@pytest.mark.xfail(strict=True, reason="the fingerprint is that of the training data alone")
def test_other_validation_data_are_refused(
    run: Path, refused: Callable[..., str], mended: Callable[[str], Path]
) -> None:
    path = mended("data/validation.jsonl")
    path.write_text(path.read_text().replace("story", "film"))
    assert "give it back as it was" in refused(run)


def test_a_configuration_edited_by_hand_is_refused(run: Path, refused: Callable[..., str]) -> None:
    path = run / "config.yaml"
    assert "lr: 0.001" in path.read_text()
    path.write_text(path.read_text().replace("lr: 0.001", "lr: 0.002"))
    said = refused(run)
    assert "model.optimizer.lr: 0.001 -> 0.002" in said
    assert "put it back" in said


@pytest.mark.parametrize("argv", ["--model.optimizer.lr 0.002", "--seed 1", "--data.batch_size 4"])
def test_another_value_on_the_command_line_is_refused(argv: str, run: Path, refused: Callable[..., str]) -> None:
    key, value = argv.removeprefix("--").split()
    said = refused(run, *argv.split())
    assert f"  {key}: " in said
    assert f"-> {value}" in said
    assert f"begin another run from this one: distill fit --from {run} {argv}" in said


def test_a_run_that_another_process_writes_is_refused(run: Path, refused: Callable[..., str]) -> None:
    code = "import sys; from distill.run import Run\nwith Run(sys.argv[1]).locked(): print('held', flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", code, str(run)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdin is not None
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        said = refused(run)
        other.stdin.close()
    assert f"process {other.pid} on " in said
    assert "is writing this run" in said


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


def test_a_runs_folder_may_be_moved(run: Path, distill: Distill, same: Same, tmp_path: Path) -> None:
    moved = tmp_path / "other/name"
    moved.parent.mkdir()
    run.rename(moved)
    assert distill("resume", str(moved)).code == 0
    same(moved)
    assert not run.exists()
    assert result(moved)["id"] == "name"


# ---------------------------------------------------------------------- extended, or ended early


def test_a_finished_run_is_extended(world: World, tmp_path: Path, distill: Distill) -> None:
    run = Path(shutil.copytree(world.whole, tmp_path / "base/run"))
    code, out, _ = distill("resume", str(run), "--max-epochs", "3")
    assert code == 0
    assert f"from step {STEPS}" in out
    assert result(run)["steps"] == STEPS + STEPS // 2
    assert yaml.safe_load((run / "config.yaml").read_text())["trainer"]["max_epochs"] == 3
    history = (world.whole / "metrics.csv").read_text()
    assert (run / "metrics.csv").read_text().startswith(history)
    assert len((run / "metrics.csv").read_text()) > len(history)


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
    before, history = result(run), (run / "metrics.csv").read_bytes()
    assert before["steps"] < 9 * STEPS // 2
    (run / "result.json").unlink()
    shutil.rmtree(run / "student")
    assert distill("resume", str(run)).code == 0
    assert {**result(run), "train_seconds": 0} == {**before, "train_seconds": 0}
    assert (run / "metrics.csv").read_bytes() == history
