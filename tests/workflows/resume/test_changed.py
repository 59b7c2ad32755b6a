"""A run resumes only as what it was: what has changed is named, and nothing is written."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from distill.run.checkpoints.file import read, write
from distill.run.checkpoints.names import resume_checkpoints
from distill.run.folder import Run

Distill = Callable[..., Any]
World = Any
Hashes = Callable[[Path], dict[str, str]]


@pytest.fixture
def refused(distill: Distill, hashes: Hashes) -> Callable[..., str]:
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
def restored(world: World) -> Iterator[Callable[[str], Path]]:
    """A file of the world, to be altered; it is put back in the end."""
    before: dict[Path, bytes] = {}

    def take(name: str) -> Path:
        path: Path = world.folder / name
        before[path] = path.read_bytes()
        return path

    yield take
    for path, content in before.items():
        path.write_bytes(content)


def test_another_teacher_is_refused(run: Path, refused: Callable[..., str], restored: Callable[[str], Path]) -> None:
    path = restored("teacher/model.safetensors")
    weights = load_file(path)
    weights["classifier.bias"] += 1e-6
    save_file(weights, path, {"format": "pt"})
    said = refused(run)
    assert "model.teacher: this is not the teacher that the run began with" in said
    assert "give it back as it was" in said


def test_another_tokenizer_is_refused(run: Path, refused: Callable[..., str], restored: Callable[[str], Path]) -> None:
    path = restored("teacher/tokenizer.json")
    content = json.loads(path.read_text())
    vocabulary = content["model"]["vocab"]
    vocabulary["good"], vocabulary["bad"] = vocabulary["bad"], vocabulary["good"]
    path.write_text(json.dumps(content))
    said = refused(run)
    assert "tokenizer" in said
    assert "give it back as it was" in said


def test_other_training_data_are_refused(
    run: Path, refused: Callable[..., str], restored: Callable[[str], Path]
) -> None:
    path = restored("data/train.jsonl")
    path.write_text(path.read_text().replace("story", "film"))
    said = refused(run)
    assert "the training samples, as they are tokenized, are not those of the run" in said
    assert "give it back as it was" in said


def test_other_validation_data_are_refused(
    run: Path, refused: Callable[..., str], restored: Callable[[str], Path]
) -> None:
    path = restored("data/validation.jsonl")
    path.write_text(path.read_text().replace("story", "film"))
    said = refused(run)
    assert "the validation samples, or the classes, are not those of the run" in said
    assert "give it back as it was" in said


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
    code = (
        "import sys; from distill.run.folder import Run\n"
        "with Run(sys.argv[1]).locked(): print('held', flush=True); input()"
    )
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


def test_other_versions_are_reported_and_the_run_continues(
    run: Path, distill: Distill, caplog: pytest.LogCaptureFixture
) -> None:
    for path in resume_checkpoints(run / "checkpoints").values():
        checkpoint = read(path)
        checkpoint["versions"]["torch"] = "1.0.0"
        write(checkpoint, path)
    assert distill("resume", str(run)).code == 0
    assert f"torch {torch.__version__} instead of 1.0.0: the bits may not be those" in caplog.text
    assert "transformers" not in caplog.text


def test_the_first_checkpoints_of_all_named_neither_versions_nor_strategy_and_resume(
    run: Path, distill: Distill, same: Callable[[Path], None]
) -> None:
    for path in resume_checkpoints(run / "checkpoints").values():
        checkpoint = read(path)
        del checkpoint["versions"], checkpoint["strategy"]
        write(checkpoint, path)
    assert distill("resume", str(run)).code == 0
    same(run)


def test_other_conditions_are_reported_and_the_run_continues(
    run: Path, distill: Distill, caplog: pytest.LogCaptureFixture
) -> None:
    for path in resume_checkpoints(run / "checkpoints").values():
        checkpoint = read(path)
        checkpoint["conditions"] |= {"threads": "77", "instructions": "\x1b[2J"}
        write(checkpoint, path)
    assert distill("resume", str(run)).code == 0
    [told] = [record.getMessage() for record in caplog.records if "the bits may not be" in record.getMessage()]
    assert f"threads {torch.get_num_threads()} instead of 77" in told
    assert r"instead of \x1b[2J" in told
    assert "processor" not in told


def test_a_copied_run_gets_an_id_of_its_own_and_leaves_the_original_as_it_was(
    run: Path, distill: Distill, hashes: Hashes, same: Callable[[Path], None]
) -> None:
    plan = json.loads((run / "plan.json").read_text())
    before = hashes(run)
    copies = {run.with_name("copied"): "copied", run.parent.parent / "other" / run.name: None}
    for copy, name in copies.items():
        shutil.copytree(run, copy)
        for opened in (Run.open(copy), Run.open(copy)):
            assert opened.copy_of == plan["id"] != opened.id
            assert name in (None, opened.id)
        done = distill("resume", str(copy))
        assert done.code == 0
        assert f"is a copy of run {plan['id']}, and continues as " in done.out
        kept = json.loads((copy / "plan.json").read_text())
        assert kept["id"] == json.loads((copy / "result.json").read_text())["id"] == Run.open(copy).id
        assert Run.open(copy).copy_of == ""
        assert kept["started"] == plan["started"]
    assert hashes(run) == before
    assert (Run.open(run).id, Run.open(run).copy_of) == (plan["id"], "")
    same(next(iter(copies)))
    elsewhere = run.rename(run.with_name("moved"))
    assert (Run.open(elsewhere).id, Run.open(elsewhere).copy_of) == (plan["id"], "")  # for life
