"""What ``distill fit`` promises."""

from __future__ import annotations

import csv
import json
import os
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from distill.cli.main import main
from distill.config.files import load
from distill.core.utils.errors import UserError
from distill.run.folder import Run
from distill.workflows.evaluate import evaluate

Distill = Callable[..., Any]
Fitted = Callable[..., Path]


def test_a_run_folder_holds_everything_and_nothing_lies_beside_it(
    base: dict[str, Any], distill: Distill, teacher_dir: str
) -> None:
    before = set(Path().iterdir())
    code, out, _ = distill("fit", "-c", "base.yaml", "--id", "one", "--logging.tensorboard", "true")
    assert code == 0
    assert set(Path().iterdir()) - before == {Path("runs")}
    folder = Path("runs/base/one")
    assert {p.name for p in folder.iterdir()} == {
        ".lock",
        "checkpoints",
        "config.yaml",
        "metrics.csv",
        "plan.json",
        "result.json",
        "student",
        "tensorboard",
        "timeline.png",
    }
    result = json.loads((folder / "result.json").read_text())
    assert result["steps"] == result["saved_step"] == 2
    assert set(result["scores"]) == {"teacher", "student", "guess"}
    assert result["parameters"]["teacher"] > result["parameters"]["student"]
    weights = (folder / "student/model.safetensors").stat().st_size
    assert result["megabytes"]["student"] == pytest.approx(weights / 1e6)
    for word in ("teacher", "student", "accuracy", "kept", "parameters", "MB", "train time"):
        assert word in out
    said = "warning: the teacher's accuracy is 0.5122, no better than a constant guess (0.5122 ± 0.07806)"
    assert out.index("accuracy 0.5122 (constant") < out.index(said) < out.index("step 2: accuracy")  # and at the end


@pytest.mark.parametrize(
    ("place", "error", "code"),
    [
        ("distill.workflows.ending.card", UserError("is amiss", key="this", hint="mend it"), 1),
        ("distill.workflows.ending.card", BrokenPipeError(32, "Broken pipe"), 1),
        ("distill.training.module.Distillation.validation_step", UserError("is amiss", key="this", hint="mend it"), 2),
    ],
    ids=["at the end", "printing", "in training"],
)
def test_a_run_that_fails_when_it_has_trained_is_kept_and_says_why(
    place: str, error: Exception, code: int, distill: Distill, monkeypatch: pytest.MonkeyPatch, base: dict[str, Any]
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(place, fail)
    keep = "--callbacks.+={class_path: ResumeCheckpoint, init_args: {every_n_steps: 1}}"
    done = distill("fit", "-c", "base.yaml", "--id", "one", keep, "--trainer.num_sanity_val_steps", "0")
    assert done.code == code, done.err
    assert (" amiss" if isinstance(error, UserError) else "nobody reads") in done.err
    folder = Path("runs/base/one")
    assert list((folder / "checkpoints").glob("last-*.ckpt"))
    assert (str(error) if code == 2 else "") in json.loads((folder / "failure.json").read_text())["message"]
    assert Run.open(folder).state == "failed"


@pytest.mark.parametrize(("argv", "code"), [(["list"], 0), (["fit", "--dry-run"], 0), (["fit", "-c", "list"], 1)])
def test_only_what_shows_something_may_be_cut_off(
    argv: list[str], code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def cut_off(*_: Any) -> None:
        raise BrokenPipeError

    monkeypatch.setattr("distill.cli.main._heeding", cut_off)
    with (tmp_path / "out").open("w") as out, monkeypatch.context() as patch:
        patch.setattr("sys.stdout", out)
        assert main(argv) == code
    assert ("nobody reads" in capsys.readouterr().err) == bool(code)


def test_a_run_begins_by_saying_what_it_has_understood_once_and_as_a_dry_run_does(
    base: dict[str, Any], distill: Distill
) -> None:
    more = ["--trainer.accumulate_grad_batches", "2", "--trainer.max_steps", "4"]
    argv = ["fit", "-c", "base.yaml", "--id", "one", *more]
    dry, wet = distill(*argv, "--dry-run").out.splitlines(), distill(*argv).out.splitlines()
    block = wet[1 : wet.index(next(line for line in wet if line.startswith("steps: "))) + 1]
    assert wet[0] == "run runs/base/one"
    assert dry[0] == "dry run: two steps are measured, and nothing is written"
    assert dry[1 : len(block) + 1] == block
    (repeated,) = [line for line in block if "are in train too" in line]  # they are made of few words
    block.remove(repeated)
    assert [line.partition(":")[0] for line in block] == ["data", "data", "teacher", "student", "device", "steps"]
    assert block[0] == "data: 150 rows for training, 41 for validation"
    assert block[1].endswith("(2 classes: negative 47 %, positive 53 %)")
    assert re.fullmatch(r"student: BertForSequenceClassification, 2 layers, [\d,]+ parameters, 0\.\d+ MB", block[3])
    assert re.fullmatch(r"device: cpu, \d+ threads?, precision 32-true", block[4])
    assert block[5] == "steps: 4 (0.4 epochs of 10), up to 16 samples each"


def test_a_run_without_a_validation_says_so_and_expects_what_it_expected(
    base: dict[str, Any], distill: Distill
) -> None:
    code, out, err = distill("fit", "-c", "base.yaml", "--id", "one", "--trainer.limit_val_batches", "0")
    assert code == 0, err
    assert "warning: trainer.limit_val_batches is 0: nothing will be known of the student" in out
    assert "warning: no validation was made: nothing is known of the student" in out
    first, last = (line for line in out.splitlines() if line.startswith("to expect: "))
    assert first == last
    assert "no better than a constant guess: expect nothing of it" in last


def test_without_a_teacher_nothing_is_said_of_what_was_kept(
    base: dict[str, Any], distill: Distill, teacher_dir: str
) -> None:
    argv = ["--model.teacher", "null", "--model.student.path", teacher_dir, "--model.losses", "[CrossEntropy]"]
    code, out, err = distill("fit", "-c", "base.yaml", *argv)
    assert code == 0, err
    assert "accuracy" in out
    assert "kept" not in out


def test_console_checkpoints_and_metrics_count_the_steps_that_are_done(base: dict[str, Any], distill: Distill) -> None:
    _, out, _ = distill("fit", "-c", "base.yaml", "--id", "one", "--trainer.log_every_n_steps", "1")
    assert "step 2: accuracy" in out
    assert Path("runs/base/one/checkpoints/best-2.ckpt").is_file()
    with Path("runs/base/one/metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows if row["train/loss"]] == ["1", "2"]
    assert [row["step"] for row in rows if row["val/accuracy"]] == ["2"]


def test_the_resolved_configuration_repeats_the_run(base: dict[str, Any], distill: Distill) -> None:
    distill(
        "fit",
        "-c",
        "base.yaml",
        "--id",
        "one",
        "--model.losses.0.weight",
        "{class_path: WarmUp, init_args: {value: 1}}",
    )
    code, _, _ = distill("fit", "-c", "runs/base/one/config.yaml", "--id", "two")
    assert code == 0
    one, two = (yaml.safe_load(Path(f"runs/base/{run}/config.yaml").read_text()) for run in ("one", "two"))
    assert one == two
    weights = [Path(f"runs/base/{run}/student/model.safetensors").read_bytes() for run in ("one", "two")]
    assert weights[0] == weights[1]
    assert one["trainer"]["precision"] == "32-true"
    assert one["model"]["optimizer"]["weight_decay"] == 0.01  # defaults are written out
    assert one["data"]["init_args"]["tokenizer"] == base["model"]["teacher"]["path"]


def test_another_seed_is_another_run(base: dict[str, Any], distill: Distill) -> None:
    for seed in ("1", "2"):
        distill("fit", "-c", "base.yaml", "--id", seed, "--seed", seed)
    weights = [Path(f"runs/base/{run}/student/model.safetensors").read_bytes() for run in ("1", "2")]
    assert weights[0] != weights[1]
    assert "seed: 2" in Path("runs/base/2/config.yaml").read_text()


def test_every_run_has_a_folder_of_its_own(base: dict[str, Any], distill: Distill) -> None:
    for _ in range(2):
        assert distill("fit", "-c", "base.yaml", "--runs", "elsewhere", "--name", "mine").code == 0
    assert len(list(Path("elsewhere/mine").iterdir())) == 2


def test_files_and_overrides_are_applied_in_their_order(base: dict[str, Any], distill: Distill) -> None:
    Path("over.yaml").write_text("model: {optimizer: {lr: 1e-4, end: 0.5}}\ntrainer: {max_steps: 1}\n")
    argv = ["fit", "-c", "base.yaml", "--config", "over.yaml", "--model.optimizer.lr=1e-5", "--id", "one"]
    assert distill(*argv).code == 0
    config = yaml.safe_load(Path("runs/base/one/config.yaml").read_text())
    assert config["model"]["optimizer"]["lr"] == 1e-5
    assert config["model"]["optimizer"]["end"] == 0.5
    assert config["trainer"]["max_steps"] == 1


def test_a_run_that_ends_within_an_epoch_is_validated_and_saved(fitted: Fitted) -> None:
    run = fitted()
    assert "val/accuracy" in (run / "metrics.csv").read_text()
    assert {p.name for p in (run / "checkpoints").iterdir()} == {"last-2.ckpt", "best-2.ckpt"}


def test_without_validation_the_last_student_is_saved(fitted: Fitted) -> None:
    run = fitted("--trainer.limit_val_batches", "0")
    assert (run / "student/model.safetensors").is_file()
    assert (run / "checkpoints/last-2.ckpt").is_file()


def test_the_student_of_the_best_checkpoint_is_saved(fitted: Fitted) -> None:
    # A rate that ruins the student after the first validation.
    argv = ["--trainer.max_steps", "4", "--trainer.val_check_interval", "2", "--model.optimizer.lr", "0.3"]
    argv += ["--trainer.limit_val_batches", "1.0", "--model.optimizer.schedule", "constant"]
    run = fitted(*argv)
    result = json.loads((run / "result.json").read_text())
    [best] = (run / "checkpoints").glob("best-*.ckpt")
    saved = torch.load(best, weights_only=True)
    assert result["saved_step"] == saved["global_step"]
    assert "optimizer_states" not in saved  # nothing is trained on from it
    newest = torch.load(run / "checkpoints/last-4.ckpt", weights_only=True)
    assert newest["optimizer_states"][0]["state"]
    from distill import load as load_student

    student = load_student(str(run))
    for name, value in student.state_dict().items():
        torch.testing.assert_close(value, saved["state_dict"][f"student.{name}"], rtol=0, atol=0)


def test_a_loss_that_is_not_finite_ends_the_run_with_code_1(base: dict[str, Any], distill: Distill) -> None:
    code, _, err = distill(
        "fit", "-c", "base.yaml", "--id", "one", "--model.optimizer.lr", "1e30", "--trainer.max_steps", "9"
    )
    assert code == 1
    assert "distill: error: the loss is not finite at step" in err
    assert "samples of the batch" in err
    assert "Traceback" not in err
    assert Path("runs/base/one/config.yaml").is_file()


def test_it_can_all_be_done_from_python(base: dict[str, Any]) -> None:
    from distill.workflows.evaluate import evaluate
    from distill.workflows.fit import fit

    config = load(["base.yaml"], [("trainer.max_steps", "1")])
    run = fit(config, run_id="one")
    assert run.result["steps"] == 1
    assert evaluate(run.folder)["val/accuracy"] == pytest.approx(run.result["scores"]["student"]["accuracy"])
    with pytest.raises(UserError):
        fit(config, run_id="one")


PLAIN = """
import torch
from pytorch_lightning import LightningDataModule
from torch.utils.data import DataLoader

class Data(LightningDataModule):
    def __init__(self, seed: int = 0, size: int = 32):
        super().__init__()
        x = torch.randn(size, 4, generator=torch.Generator().manual_seed(seed))
        self.pairs = list(zip(x, x.argmax(1)))
    def train_dataloader(self):
        return DataLoader(self.pairs, batch_size=8)
    def val_dataloader(self):
        return DataLoader(self.pairs, batch_size=8)

class Net(torch.nn.Sequential):
    def __init__(self, width: int):
        super().__init__(torch.nn.Linear(4, width), torch.nn.ReLU(), torch.nn.Linear(width, 4))
"""


def test_plain_modules_and_data_of_ones_own_are_run_from_yaml(
    distill: Distill, own_module: Callable[[str, str], None]
) -> None:
    own_module("plainly", PLAIN)
    config = {
        "seed": 5,
        "model": {
            "task": "plain",
            "teacher": {"class_path": "plainly.Net", "init_args": {"width": 16}},
            "student": {"class_path": "plainly.Net", "init_args": {"width": 4}},
            "losses": ["HintonKL", {"class_path": "FitNetHint", "init_args": {"taps": {"0": "0"}}}],
        },
        "data": {"class_path": "plainly.Data"},
        "trainer": {"max_epochs": 2, "accelerator": "cpu"},
    }
    Path("plain.yaml").write_text(yaml.safe_dump(config))
    code, _, err = distill("fit", "-c", "plain.yaml", "--allow", "plainly", "--id", "one")
    assert code == 0, err
    assert yaml.safe_load(Path("runs/plain/one/config.yaml").read_text())["data"]["init_args"]["seed"] == 5
    code, out, err = distill("validate", "runs/plain/one", "--allow", "plainly")
    assert code == 0, err
    result = json.loads(Path("runs/plain/one/result.json").read_text())
    assert f"{result['scores']['student']['accuracy']:.4g}" in out


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_run_that_is_stopped_says_so_with_its_code(base: dict[str, Any], number: int, code: int, forks: Any) -> None:
    Path("command.py").write_text("import sys; from distill.cli.main import main; sys.exit(main(sys.argv[1:]))")
    command = ["command.py", "fit", "-c", "base.yaml", "--trainer.max_steps", "100000"]
    command += ["--id", "one", "--trainer.log_every_n_steps", "1"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    forks.start(command, environment, Path.cwd(), Path("output").absolute(), Path("errors").absolute())
    for _ in range(3000):  # a machine may be busy, and before it trains SIGTERM would end it at once
        if Path("runs/base/one/metrics.csv").is_file():
            break
        time.sleep(0.1)
    assert Path("runs/base/one/metrics.csv").is_file(), Path("errors").read_text()
    forks.signal(number)
    assert forks.wait(60) == code
    assert "Traceback" not in Path("errors").read_text()


def test_a_student_is_judged_and_saved_in_the_dtype_asked_for(fitted: Fitted) -> None:
    from transformers import AutoModelForSequenceClassification

    plain = load_file(fitted(run_id="plain") / "student/model.safetensors")
    run = fitted("--model.student.save_dtype", "bfloat16", run_id="half")
    saved = load_file(run / "student/model.safetensors")
    assert saved.keys() == plain.keys()
    assert all(torch.equal(saved[name], plain[name].to(torch.bfloat16)) for name in plain)
    result = json.loads((run / "result.json").read_text())
    assert result["megabytes"]["student"] * 1e6 == (run / "student/model.safetensors").stat().st_size
    assert AutoModelForSequenceClassification.from_pretrained(run / "student").dtype == torch.bfloat16
    assert evaluate(run)["val/accuracy"] == result["scores"]["student"]["accuracy"]


def test_rounding_what_is_quantized_is_refused(base: dict[str, Any], distill: Distill) -> None:
    callback = {"class_path": "QuantizationAwareTraining"}
    Path("base.yaml").write_text(yaml.safe_dump(base | {"callbacks": [callback]}))
    code, _, err = distill(
        "fit", "-c", "base.yaml", "--model.student.save_dtype", "bfloat16", "--trainer.max_steps", "40"
    )
    assert code == 2
    assert "model.student.save_dtype = 'bfloat16': would round the weights" in err
