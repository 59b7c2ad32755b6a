"""The best student is chosen by the user's own ``BestCheckpoint``, and all that speaks of a run says by what."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from torch import nn

from distill.callbacks import BestCheckpoint
from distill.core.utils.errors import UserError
from distill.losses import CrossEntropy, HintonKL
from distill.tasks import CausalLM, Plain, Task, TextClassification
from distill.training.module import Distillation
from distill.workflows.evaluate import reopen
from distill.workflows.job.choosing import choose_by, chosen_again, chosen_by, compared

Distill = Callable[..., Any]

SCORES = {2: (0.9, 0.2), 4: (0.5, 0.7), 6: (0.4, 0.3)}  # step -> accuracy, f1


def own(**given: str) -> list[str]:
    return ["--callbacks", json.dumps([{"class_path": "BestCheckpoint", "init_args": given}])]


@pytest.fixture
def six(base: Any, distill: Distill, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Fits six steps whose validations find what :data:`SCORES` says; what it prints."""

    def log(module: Any) -> None:
        for name, figure in zip(("accuracy", "f1"), SCORES.get(module.global_step, (0.0, 0.0)), strict=True):
            module.log(f"val/{name}", torch.tensor(figure))

    def run(*argv: str) -> str:
        trainer = ["--trainer.max_steps", "6", "--trainer.val_check_interval", "2"]
        with monkeypatch.context() as patched:
            patched.setattr(Distillation, "on_validation_epoch_end", log)
            code, out, err = distill("fit", "-c", "base.yaml", "--id", "one", *trainer, *argv)
        assert code == 0, err
        return str(out)

    return run


@pytest.mark.parametrize(
    ("given", "metric", "step"), [({"monitor": "val/f1", "mode": "max"}, "f1", 4), ({}, "accuracy", 2)]
)
def test_a_run_says_by_which_metric_its_best_student_was_chosen(
    given: dict[str, str], metric: str, step: int, six: Callable[..., str], distill: Distill
) -> None:
    assert f"student of step {step} of 6 (the best by {metric})" in six(*own(**given))
    run = Path("runs/base/one")
    for name in ("result.json", "plan.json"):
        found = json.loads((run / name).read_text())
        assert (found["monitor"], found["mode"]) == (metric, "max")
    assert found["total_steps"] == 6
    assert json.loads((run / "result.json").read_text())["saved_step"] == step
    assert [path.name for path in (run / "checkpoints").glob("best*")] == [f"best-{step}.ckpt"]
    [listed] = json.loads(distill("runs", "--json").out)
    assert listed["monitor"] == metric
    assert reopen(run, "validate")[1].module.task.monitor == metric


@pytest.mark.parametrize(
    ("task", "given", "key"),
    [
        (TextClassification(["a", "b"]), {"monitor": "val/accuracy", "mode": "min"}, "mode"),
        (TextClassification(["a", "b"]), {"monitor": "val/f1", "mode": "min"}, "mode"),
        (TextClassification(["a", "b"]), {"monitor": "val/matthews", "mode": "min"}, "mode"),
        (CausalLM(), {"monitor": "val/perplexity", "mode": "max"}, "mode"),
        (CausalLM(), {"monitor": "val/bits_per_byte", "mode": "max"}, "mode"),
        (CausalLM(), {"monitor": "val/token_accuracy", "mode": "min"}, "mode"),
        (CausalLM(), {"monitor": "train/loss", "mode": "min"}, "monitor"),
        (CausalLM(), {"mode": "max"}, "mode"),
        (TextClassification(["a", "b"]), {"monitor": "val/agreement", "mode": "max"}, "monitor"),
    ],
)
def test_the_worst_is_not_taken_for_the_best(task: Task, given: dict[str, str], key: str) -> None:
    before = task.monitor, task.mode
    with pytest.raises(UserError) as error:
        choose_by(task, [BestCheckpoint(**given)])  # type: ignore[arg-type]
    assert error.value.key == f"callbacks.0.{key}"
    assert (task.monitor, task.mode) == before


def test_a_metric_of_ones_own_is_taken_in_the_direction_that_is_given() -> None:
    task = CausalLM()
    choose_by(task, [BestCheckpoint(monitor="val/perplexity", mode="min")])
    assert (task.monitor, task.mode) == ("perplexity", "min")
    best = BestCheckpoint()
    choose_by(CausalLM(), [best])
    assert (best.monitor, best.mode, float(best.kth_value)) == ("val/bits_per_byte", "min", float("inf"))
    best = BestCheckpoint(monitor="val/f1")  # in the direction in which that is better
    choose_by(TextClassification(["a", "b"]), [best])
    assert (best.monitor, best.mode, float(best.kth_value)) == ("val/f1", "max", -float("inf"))


def test_agreement_with_the_teacher_chooses_a_student_and_does_not_judge_it() -> None:
    task, best = TextClassification(["a", "b"]), BestCheckpoint(monitor="val/agreement")
    choose_by(task, [best], ("agreement",))
    assert (best.monitor, best.mode) == ("val/agreement", "max")
    assert (task.monitor, task.mode, chosen_by(task, [best])) == ("accuracy", "max", "agreement")
    assert chosen_by(task, []) == "accuracy"
    with pytest.raises(UserError, match="of agreement, more is better"):
        choose_by(task, [BestCheckpoint(monitor="agreement", mode="min")], ("agreement",))
    with pytest.raises(UserError, match="'val/accuracy', 'val/agreement'"):
        choose_by(task, [BestCheckpoint(monitor="train/loss")], ("agreement",))


def test_agreement_is_measured_where_a_teacher_runs_and_predictions_are_classes() -> None:
    def pair(task: Task, **given: Any) -> Distillation:
        losses = [HintonKL()] if given.get("teacher") is not None else [CrossEntropy()]
        return Distillation(nn.Linear(2, 2), task, losses=losses, **given)

    teacher = nn.Linear(2, 2)
    best = [BestCheckpoint(monitor="val/agreement")]
    assert compared(pair(Plain(), teacher=teacher), None, best) == ("agreement",)
    assert compared(pair(Plain()), None, best) == ()
    assert compared(pair(Plain(), teacher=teacher), SimpleNamespace(teacher_tokenizer="x"), best) == ()
    numbers = pair(Plain(), teacher=teacher)
    numbers.task.predict = lambda logits: None  # type: ignore[method-assign]
    assert compared(numbers, None, best) == ()
    wide = pair(Plain(), teacher=teacher)
    wide.task.predict = lambda logits: logits[..., 2] > 0  # type: ignore[method-assign]
    assert compared(wide, None, best) == ("agreement",)


def test_a_task_is_not_asked_how_it_predicts_where_agreement_chooses_nothing() -> None:
    class Asked(Plain):
        def predict(self, logits: torch.Tensor) -> torch.Tensor:
            raise AssertionError

    for teacher, losses in ((None, [CrossEntropy()]), (nn.Linear(2, 2), [HintonKL()])):
        module = Distillation(nn.Linear(2, 2), Asked(), losses=losses, teacher=teacher)  # type: ignore[arg-type]
        for callbacks in ([], [BestCheckpoint()], [BestCheckpoint(monitor="val/accuracy")]):
            assert compared(module, None, callbacks) == ()
    assert compared(Distillation(nn.Linear(2, 2), Asked()), None, [BestCheckpoint(monitor="val/agreement")]) == ()


def test_a_run_opened_again_is_judged_as_its_plan_says_whatever_class_chose() -> None:
    def again(plan: Any, *callbacks: Any) -> tuple[str, str]:
        task = TextClassification(["a", "b"])
        chosen_again(task, list(callbacks), plan)
        return task.monitor, task.mode

    mine = {"class_path": "mine.OwnBest", "init_args": {"monitor": "val/f1"}}
    assert again({"monitor": "f1", "mode": "max"}, mine) == ("f1", "max")
    old = {"class_path": "BestCheckpoint", "init_args": {"monitor": "val/f1", "mode": None}}
    for plan in ({}, {"monitor": ["f1"], "mode": "max"}, {"monitor": "loss", "mode": "min"}, {"monitor": "f1"}):
        assert again(plan, old) == ("f1", "max")
        assert again(plan) == ("accuracy", "max")


def test_a_configuration_of_before_which_has_lightnings_mode_written_out_is_resumed_and_repeated(
    six: Callable[..., str], distill: Distill, caplog: pytest.LogCaptureFixture
) -> None:
    six(*own(mode="min"))  # as ``resolved`` wrote it: of accuracy, more is better
    [written] = [
        one
        for one in yaml.safe_load(Path("runs/base/one/config.yaml").read_text())["callbacks"]
        if "BestCh" in str(one)
    ]
    assert (written["init_args"]["monitor"], written["init_args"]["mode"]) == (None, "min")
    found = json.loads(Path("runs/base/one/result.json").read_text())
    assert (found["monitor"], found["mode"], found["saved_step"]) == ("accuracy", "max", 2)
    code, out, err = distill("resume", "runs/base/one", "--max-steps", "8")
    assert code == 0, err
    assert "mode: min is not heeded without a monitor: of accuracy, more is better" in out + err + caplog.text


def test_a_wrong_mode_is_refused_before_anything_is_written(base: Any, distill: Distill) -> None:
    code, _, err = distill("fit", "-c", "base.yaml", *own(monitor="val/accuracy", mode="min"))
    assert code == 2
    assert "callbacks.0.mode = 'min': of accuracy, more is better. write max" in err
    assert not Path("runs").exists()
