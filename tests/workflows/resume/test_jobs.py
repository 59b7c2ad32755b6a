"""Runs made longer, jobs started again and again, secrets, and runs that begin from another."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors.torch import load_file

from distill.config.files import read_file
from distill.run.folder import Run

Distill = Callable[..., Any]
Fitted = Callable[..., Path]
OwnModule = Callable[[str, str], None]


def result(folder: str | Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(Path(folder, "result.json").read_text())
    return found


def test_a_job_started_again_begins_resumes_and_leaves_what_has_finished(base: Any, distill: Distill) -> None:
    job = ("fit", "-c", "base.yaml", "--id", "job", "--resume", "auto")
    assert distill(*job).code == 0
    first = result("runs/base/job")
    code, out, _ = distill(*job)
    assert code == 0
    assert "has finished" in out
    Path("runs/base/job/result.json").unlink()  # killed just before the end
    code, out, _ = distill(*job)
    assert code == 0
    assert "resuming" in out
    assert result("runs/base/job")["scores"] == first["scores"]
    code, out, err = distill(*job, "--trainer.max_steps", "4")
    assert code == 0, err
    assert result("runs/base/job")["steps"] == 4


def test_a_job_killed_as_its_folder_is_made_begins_when_it_is_started_again(
    base: Any, distill: Distill, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: Any, **__: Any) -> None:
        raise SystemExit(-9)

    job = ("fit", "-c", "base.yaml", "--id", "job", "--resume", "auto")
    with monkeypatch.context() as until_death:
        until_death.setattr(Run, "write_plan", killed)  # right behind the configuration, wherever it is written
        until_death.setattr(Run, "_plan_text", killed)
        until_death.setattr("shutil.rmtree", lambda *_, **__: None)  # who is killed clears nothing
        with pytest.raises(SystemExit):
            distill(*job)
    code, _, err = distill(*job)
    assert code == 0, err
    assert [path.name for path in Path("runs/base").iterdir()] == ["job"]


def test_a_folder_that_holds_something_else_is_left_as_it_is(base: Any, distill: Distill) -> None:
    Path("runs/base/job").mkdir(parents=True)
    Path("runs/base/job/mine.txt").write_text("kept")
    code, _, err = distill("fit", "-c", "base.yaml", "--id", "job", "--resume", "auto")
    assert code == 2
    assert "exists" in err
    assert Path("runs/base/job/mine.txt").read_text() == "kept"


def test_a_job_of_another_configuration_is_refused(base: Any, distill: Distill) -> None:
    job = ("fit", "-c", "base.yaml", "--id", "job", "--resume", "auto")
    assert distill(*job).code == 0
    code, _, err = distill(*job, "--model.optimizer.lr", "0.5")
    assert code == 2
    assert "model.optimizer.lr: 0.001 -> 0.5" in err
    assert "distill fit --from" in err
    assert "--model.optimizer.lr 0.5" in err


def test_auto_needs_a_name_for_the_run(base: Any, distill: Distill) -> None:
    code, _, err = distill("fit", "-c", "base.yaml", "--resume", "auto")
    assert code == 2
    assert "add --id ID" in err
    assert not Path("runs").exists()


def test_a_run_cannot_be_made_shorter_than_it_is(fitted: Fitted, distill: Distill) -> None:
    run = fitted()
    before = (run / "config.yaml").read_text()
    code, _, err = distill("resume", str(run), "--max-steps", "1")
    assert code == 2
    assert "trainer.max_steps = 1: the run has done 2 already" in err
    assert (run / "config.yaml").read_text() == before
    assert (run / "result.json").is_file()


@pytest.mark.slow
def test_a_run_extended_at_a_constant_rate_is_the_one_that_was_that_long_from_the_beginning(
    base: dict[str, Any], fitted: Fitted, distill: Distill
) -> None:
    base["model"]["optimizer"] |= {"schedule": "constant", "warmup": 0}  # nothing else is a function of the length
    base["data"]["train_samples"] = 33  # five steps an epoch
    base["trainer"] |= {"val_check_interval": 3, "log_every_n_steps": 1}
    Path("base.yaml").write_text(yaml.safe_dump(base))
    whole = fitted("--trainer.max_steps", "8", run_id="whole")
    run = fitted("--trainer.max_steps", "3", run_id="extended")
    code, out, err = distill("resume", str(run), "--max-steps", "8")
    assert code == 0, err
    assert "from step 3" in out
    for file in ("metrics.csv", "student/model.safetensors"):
        assert (run / file).read_bytes() == (whole / file).read_bytes(), file
    assert result(run)["scores"] == result(whole)["scores"]


@pytest.mark.slow
def test_the_history_of_a_run_stopped_before_its_first_validation_is_that_of_an_undisturbed_one(
    base: dict[str, Any], fitted: Fitted, distill: Distill, at_call: Callable[..., None]
) -> None:
    # Unrounded scores, and no row of a validation yet to say in which order the columns come.
    base["callbacks"] = [{"class_path": "QuantizationAwareTraining", "init_args": {"begin": 0.25, "observe": 0.0}}]
    base["trainer"] |= {"max_steps": 4, "val_check_interval": 2, "log_every_n_steps": 1}
    Path("base.yaml").write_text(yaml.safe_dump(base))
    whole = fitted(run_id="whole")
    with pytest.MonkeyPatch.context() as patch:
        at_call(patch, "training_step", 1, lambda: os.kill(os.getpid(), signal.SIGTERM))
        with pytest.raises(SystemExit, match="143"):
            fitted(run_id="stopped")
    assert distill("resume", "runs/base/stopped").code == 0
    history = (whole / "metrics.csv").read_bytes()
    assert b"val/float_accuracy" in history
    assert Path("runs/base/stopped/metrics.csv").read_bytes() == history


def test_a_finished_run_without_checkpoints_is_not_trained_anew(fitted: Fitted, distill: Distill) -> None:
    run = fitted()
    shutil.rmtree(run / "checkpoints")
    code, _, err = distill("resume", str(run), "--max-steps", "4")
    assert code == 2
    assert "no checkpoint to resume from" in err
    assert result(run)["steps"] == 2


def test_a_teacher_that_was_moved_is_given_by_its_new_place(
    fitted: Fitted, base: dict[str, Any], distill: Distill, teacher_dir: str
) -> None:
    shutil.copytree(teacher_dir, "here")
    base["model"]["teacher"]["path"] = "here"
    Path("base.yaml").write_text(yaml.safe_dump(base))
    run = fitted()
    Path("here").rename("there")
    assert distill("resume", str(run), "--max-steps", "4").code == 2
    places = ("--model.teacher.path", "there", "--data.tokenizer", "there")
    code, _, err = distill("resume", str(run), "--max-steps", "4", *places)
    assert code == 0, err
    assert read_file(run / "config.yaml")["model"]["teacher"]["path"] == str(Path("there").resolve())


SECRET = """
from pytorch_lightning import Callback

class Reporter(Callback):
    def __init__(self, api_key: str):
        assert api_key == "hush-12345"
"""


def test_a_run_with_a_secret_is_resumed_by_giving_it_again_and_it_is_not_shown(
    base: dict[str, Any], distill: Distill, own_module: OwnModule
) -> None:
    own_module("reporting", SECRET)
    base["callbacks"] = [{"class_path": "reporting.Reporter", "init_args": {"api_key": "hush-12345"}}]
    Path("base.yaml").write_text(yaml.safe_dump(base))
    allow = ("--allow", "reporting")
    job = ("fit", "-c", "base.yaml", "--id", "one", "--resume", "auto", *allow)
    assert distill(*job).code == 0
    Path("runs/base/one/result.json").unlink()
    assert distill("resume", "runs/base/one", *allow).code == 2
    key = ("--callbacks.0.api_key", "hush-12345")
    code, out, err = distill("resume", "runs/base/one", *allow, *key)
    assert code == 0, err
    Path("runs/base/one/result.json").unlink()
    assert distill(*job).code == 0
    code, out, err = distill("resume", "runs/base/one", "--max-steps", "4", "--seed", "9", *allow, *key)
    assert code == 2
    assert "hush" not in out + err


def test_another_run_begins_with_the_weights_of_this_one(fitted: Fitted, distill: Distill) -> None:
    run = fitted()
    argv = ("--from", str(run), "--id", "two", "--model.optimizer.lr", "1e-30", "--trainer.max_steps", "1")
    Path("more.yaml").write_text(yaml.safe_dump({"callbacks": ["ResumeCheckpoint"]}))
    code, _, err = distill("fit", *argv, "-c", "more.yaml")
    assert code == 0, err
    one, two = (load_file(f"runs/base/{name}/student/model.safetensors") for name in ("one", "two"))
    assert one.keys() == two.keys()
    assert max(float((one[name] - two[name]).abs().max()) for name in one) < 1e-6
    assert read_file(Path("runs/base/two/config.yaml"))["callbacks"][0]["init_args"] == {"run": str(run.resolve())}


def test_another_student_cannot_begin_with_them(fitted: Fitted, distill: Distill) -> None:
    run = fitted()
    code, _, err = distill("fit", "--from", str(run), "--id", "two", "--model.student.num_layers", "3")
    assert code == 2
    assert "the student of that run is another one" in err
    assert not Path("runs/base/two").exists()


def test_checkpoints_cannot_be_asked_for_and_switched_off(base: dict[str, Any], distill: Distill) -> None:
    base["callbacks"] = ["ResumeCheckpoint"]
    base["trainer"]["enable_checkpointing"] = False
    Path("base.yaml").write_text(yaml.safe_dump(base))
    code, _, err = distill("fit", "-c", "base.yaml")
    assert code == 2
    assert "trainer.enable_checkpointing" in err
