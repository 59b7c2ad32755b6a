"""What ``distill fit --dry-run`` promises."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from distill.config.files import load

Distill = Callable[..., Any]


def test_a_dry_run_tells_what_would_happen_and_writes_nothing(base: dict[str, Any], distill: Distill) -> None:
    before = set(Path().rglob("*"))
    schedule = "{class_path: Linear, init_args: {start: 1.0, end: 0.0}}"
    argv = ["--trainer.max_steps", "40", "--model.losses.0.weight", schedule, "--id", "one"]
    code, out, err = distill("fit", "-c", "base.yaml", "--dry-run", *argv)
    assert code == 0, err
    assert set(Path().rglob("*")) == before
    for said in ("data: 150 rows", "teacher: ", "student: ", "device: cpu", "memory of a step", "without validation"):
        assert said in out
    assert "steps: 40 (2.1 epochs of 19), up to 8 samples each\n" in out
    assert "accuracy 0.5122 (constant guess 0.5122), on 41 of 41 validation samples" in out
    assert "warning: the teacher's accuracy is 0.5122, no better than a constant guess" in out
    assert "to expect: all 150 training rows are labelled, and the teacher is no better than a constant guess" in out
    assert "runs/base/one" in out
    assert "0.75" in out  # the weight after a quarter
    [heads] = [line for line in out.splitlines() if "steps done" in line]
    assert [word for word in heads.split() if word.isdigit()] == ["0", "2", "10", "20", "29", "39"]


def test_what_was_understood_is_said_before_a_step_that_fails(
    base: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from distill.training.module import Distillation
    from distill.workflows.dry_run import dry_run

    def fail(*_: Any) -> None:
        raise MemoryError("a batch does not fit")

    monkeypatch.setattr(Distillation, "training_step", fail)
    with pytest.raises(MemoryError):
        dry_run(load(["base.yaml"]))
    out = capsys.readouterr().out
    assert out.index("data: 150 rows") < out.index("student: ") < out.index("steps: ")


@pytest.mark.parametrize("name", ["DeviceStatsMonitor", "LearningRateMonitor"])
def test_a_callback_that_waits_for_a_logger_is_refused_only_where_a_run_has_none(
    name: str, base: dict[str, Any], distill: Distill
) -> None:
    argv = ["fit", "-c", "base.yaml", "--dry-run", "--callbacks", f"[{name}]"]
    code, _, err = distill(*argv)
    assert code == 0, err
    code, _, err = distill(*argv, "--logging.csv", "false")
    assert code == 2
    assert f"callbacks.0 = '{name}'" in err


def test_a_dry_run_makes_up_no_id(base: dict[str, Any]) -> None:
    from distill.workflows.dry_run import dry_run

    assert dry_run(load(["base.yaml"]))["run_folder"] == "runs/base/<id given with --id, or made at the start>"


def test_a_dry_run_counts_what_a_run_would_do(base: dict[str, Any]) -> None:
    from distill.workflows.dry_run import dry_run

    config = load(["base.yaml"], [("trainer", "{max_steps: -1, max_epochs: 3, accumulate_grad_batches: 2}")])
    report = dry_run(config)
    assert report["steps_an_epoch"] == 10  # 150 samples, 8 a batch, 2 batches a step
    assert report["steps"] == 30
    assert 0 < report["tokens_a_step"] <= report["padded_tokens_a_step"]
    assert report["seconds"] == pytest.approx(30 * report["seconds_a_step"])
    # One step before the end, linear from the 2 steps of the warm-up down to 0.
    assert report["timeline"]["learning rate"][-1] == pytest.approx(1e-3 * 1 / 28)


def test_a_dry_run_tells_what_must_be_said_of_the_outcome_already(base: dict[str, Any], distill: Distill) -> None:
    prune = "[{class_path: GradualMagnitudePruning, init_args: {final_sparsity: 0.8, begin: 4}}]"
    argv = ["--trainer.max_steps", "40", "--callbacks", prune, "--data.eval_batch_size", "8"]
    code, out, err = distill("fit", "-c", "base.yaml", "--dry-run", *argv)
    assert code == 0, err
    assert "warning: 80% sparsity in 36 steps: fewer than 200 are seldom enough" in out
    assert "warning: scored on 1 of 6 batches of the data" in out
    assert "no run of this student without a teacher has finished" in out


def test_a_profiler_writes_nothing_either(base: dict[str, Any], distill: Callable[..., Any]) -> None:
    before = sorted(Path().rglob("*"))
    code, _, err = distill("fit", "-c", "base.yaml", "--dry-run", "--trainer.profiler", "pytorch")
    assert code == 0, err
    assert sorted(Path().rglob("*")) == before


@pytest.mark.parametrize(
    ("argument", "said"),
    [
        (
            ["--model.losses", "[{class_path: FitNetHint, init_args: {layers: {1: 9}}}]"],
            "model.losses.0.layers",
        ),
        (
            ["--callbacks", "[{class_path: GradualMagnitudePruning, init_args: {include: [atention]}}]"],
            "include.0 = 'atention'",
        ),
        (["--callbacks", "[{class_path: StructuredPruning, init_args: {layers: [9]}}]"], "layers = [9]"),
        (["--callbacks", "[{class_path: ShareParameters, init_args: {groups: [[1, 9]]}}]"], "groups = [[1, 9]]"),
    ],
)
def test_a_name_that_no_layer_has_is_told_dry_as_it_is_in_a_run_before_data_is_read(
    argument: list[str], said: str, base: dict[str, Any], distill: Distill
) -> None:
    before = set(Path().rglob("*"))
    told = [
        distill("fit", "-c", "base.yaml", "--data.path", "./no-such-data", *argument, *more)
        for more in ([], ["--dry-run"])
    ]
    assert [(code, out) for code, out, _ in told] == [(2, "")] * 2
    assert told[0][2] == told[1][2]
    assert said in told[1][2]
    assert set(Path().rglob("*")) == before


@pytest.mark.parametrize(("owner", "place"), [("Distillation", "training_step"), ("TextData", "setup")])
def test_one_interrupt_ends_it_and_leaves_nothing(
    owner: str, place: str, base: dict[str, Any], distill: Distill, monkeypatch: pytest.MonkeyPatch
) -> None:
    import distill as package

    original = getattr(getattr(package, owner), place)

    def interrupted(*given: Any, **named: Any) -> Any:
        os.kill(os.getpid(), signal.SIGINT)
        return original(*given, **named)

    monkeypatch.setattr(getattr(package, owner), place, interrupted)
    before = set(Path().rglob("*"))
    code, _, err = distill("fit", "-c", "base.yaml", "--dry-run")
    assert (code, err) == (130, "distill: error: interrupted\n")
    assert set(Path().rglob("*")) == before
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
