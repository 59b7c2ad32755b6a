"""What a run on two ranks promises of its being resumed."""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from distill.run.checkpoints.file import read
from distill.run.checkpoints.names import resume_checkpoints
from distill.run.folder import Run
from distill.run.history import read_rows
from distill.training.module import Distillation

pytestmark = pytest.mark.slow

Ranks = Callable[..., Any]

STEPS, STOP = 8, 5  # of two epochs of 55 samples in batches of 2 x 8; done when it is stopped


@pytest.fixture(scope="module")
def ranks(script: Callable[..., Any]) -> Ranks:
    """Starts the two ranks on a phase of ``ranks.py``, in a folder."""
    return partial(script, Path(__file__).with_name("ranks.py"))


@pytest.fixture(scope="module")
def runs(
    tmp_path_factory: pytest.TempPathFactory,
    recipe: dict[str, Any],
    changed: Callable[..., dict[str, Any]],
    joint: list[dict[str, Any]],
    ranks: Ranks,
) -> Path:
    """A folder with three runs: two undisturbed ones, and one that ended as its second rank alone was told to."""
    folder = tmp_path_factory.mktemp("ranks")
    # Without dropout, whose masks are drawn anew for each rank: what is left are sums in another order.
    shutil.copytree(recipe["model"]["teacher"]["path"], folder / "teacher")
    config = json.loads((folder / "teacher/config.json").read_text())
    config |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    (folder / "teacher/config.json").write_text(json.dumps(config))
    changes = {
        "model": {"teacher": {"path": str(folder / "teacher")}},
        "data": {"train_samples": 55},
        "trainer": {
            "max_epochs": 2,
            "max_steps": -1,
            "val_check_interval": 3,
            "log_every_n_steps": 1,
            "devices": "auto",
        },
        "callbacks": joint,
        "runs": str(folder / "runs"),
    }
    plain = changed(recipe, changes)
    (folder / "base.yaml").write_text(yaml.safe_dump(plain))
    often = {"class_path": "ResumeCheckpoint", "init_args": {"every_n_steps": 1}}
    dropout = {"model": {"teacher": recipe["model"]["teacher"]}, "callbacks": [*joint, often]}
    (folder / "dropout.yaml").write_text(yaml.safe_dump(changed(plain, dropout)))
    done = ranks("train", folder, code=143)
    assert done.err.count("to resume: distill resume") == 1
    assert next(iter(resume_checkpoints(folder / "runs/base/stopped/checkpoints"))) == STOP
    return folder


@pytest.fixture(scope="module")
def resumed(runs: Path, ranks: Ranks) -> Path:
    """The same folder, with the stopped run resumed, and one that was killed twice and begun and resumed by one
    and the same command."""
    shutil.copytree(runs / "runs/base/stopped", runs / "runs/base/resumed")
    for phase in ("kill", "kill-again"):
        ranks(phase, runs, code=-signal.SIGKILL)
        assert Run(runs / "runs/dropout/killed").state == "interrupted"
        steps = resume_checkpoints(runs / "runs/dropout/killed/checkpoints")
        assert any(step % (STEPS // 2) for step in steps)  # within the epoch
    ranks("resume", runs)
    return runs


def final(run: Path) -> dict[str, Any]:
    return read(run / f"checkpoints/last-{STEPS}.ckpt")


@pytest.mark.parametrize("name", ["base/resumed", "dropout/killed"], ids=["one told to stop", "both killed, twice"])
def test_a_run_on_two_ranks_that_did_not_come_to_its_end_ends_with_the_same_bits(
    name: str, resumed: Path, differences: Callable[[Any, Any], list[str]]
) -> None:
    run, whole = resumed / "runs" / name, (resumed / "runs" / name).with_name("whole")
    assert len(final(run)["teacher"]["remembered"]) == 2
    assert differences(final(run), final(whole)) == []
    for file in ("metrics.csv", "student/model.safetensors"):
        assert (run / file).read_bytes() == (whole / file).read_bytes(), file


def test_the_killed_run_had_dropout(runs: Path) -> None:
    student = json.loads((runs / "runs/dropout/whole/student/config.json").read_text())
    assert min(student["hidden_dropout_prob"], student["attention_probs_dropout_prob"]) > 0


def test_a_finished_run_on_two_ranks_is_extended(runs: Path, ranks: Ranks) -> None:
    shutil.copytree(runs / "runs/base/whole", runs / "runs/base/extended")
    ranks("extend", runs)
    assert Run(runs / "runs/base/extended").result["steps"] == STEPS * 3 // 2


def history(run: Path) -> dict[tuple[str, str], float]:
    """The numbers of ``metrics.csv``, by step and column."""
    rows = list(read_rows(run / "metrics.csv"))
    return {(row["step"], name): float(row[name]) for row in rows for name in row if row[name] and name != "step"}


def test_one_rank_resumes_with_the_batches_of_two_and_says_that_the_bits_are_others(
    runs: Path,
    distill: Callable[..., Any],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    seen, original = [], Distillation.training_step

    def step(self: Any, raw_batch: Any, batch_idx: int) -> Any:
        seen.append(sorted(raw_batch.ids))
        return original(self, raw_batch, batch_idx)

    monkeypatch.setattr(Distillation, "training_step", step)
    run, whole = tmp_path / "base/run", runs / "runs/base/whole"
    shutil.copytree(runs / "runs/base/stopped", run)
    assert distill("resume", str(run)).code == 0
    assert "1 ranks instead of 2" in caplog.text
    assert "the bits will not be those" in caplog.text
    both = [json.loads((runs / f"seen-{rank}.json").read_text()) for rank in (0, 1)]
    assert seen == [sorted(first + second) for first, second in zip(*both, strict=True)][STOP:]
    ours, theirs = final(run), final(whole)
    assert ours["lr_schedulers"] == theirs["lr_schedulers"]
    assert ours["loops"] == theirs["loops"]
    for name, value in theirs["state_dict"].items():
        torch.testing.assert_close(ours["state_dict"][name], value, rtol=1e-4, atol=1e-4, msg=name)
    assert {(str(step + 1), "train/loss") for step in range(STEPS)} <= history(run).keys()
    assert history(run) == pytest.approx(history(whole), rel=1e-4, abs=1e-4)
