"""What the ``distill`` command promises."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from distill import __version__
from distill.config import load
from distill.errors import UserError

Distill = Callable[..., Any]
HEAVY = {"torch", "transformers", "pytorch_lightning", "lightning_fabric", "datasets", "numpy", "jsonargparse", "wandb"}


def files(folder: Path) -> set[str]:
    return {str(p.relative_to(folder)) for p in folder.rglob("*")}


# ---------------------------------------------------------------------- help


@pytest.mark.parametrize(
    "argv",
    [["--help"], ["-h"], [], ["--version"], ["list", "--help"], ["validate", "--help"], ["fti"], ["validate"]],
    ids=" ".join,
)
def test_help_imports_nothing_heavy(argv: list[str]) -> None:
    code = "import sys; from distill.cli import main; main(sys.argv[1:]); print(*sys.modules, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code, *argv], capture_output=True, text=True, check=True)
    assert not HEAVY & set(done.stderr.split())


def test_help_shows_every_command(distill: Distill) -> None:
    code, out, _ = distill("--help")
    assert code == 0
    for command in ("fit", "validate", "test", "list"):
        assert f"distill {command}" in out


def test_the_installed_command_tells_its_version() -> None:
    command = Path(sys.executable).with_name("distill")
    if not command.exists():
        pytest.skip("the command is not installed beside this interpreter")
    done = subprocess.run([command, "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"distill {__version__}\n"


def test_the_help_of_fit_lists_options_and_keys(distill: Distill) -> None:
    code, out, _ = distill("fit", "--help")
    assert code == 0
    for key in ("--dry-run", "--allow", "model.student.num_layers", "model.optimizer.lr", "data.batch_size"):
        assert key in out
    assert "trainer.max_epochs" in out
    assert "trainer.callbacks" not in out  # cannot be given there


def test_the_help_of_fit_says_what_every_key_is(distill: Distill) -> None:
    _, out, _ = distill("fit", "--help")
    lines = out[out.index("  model.student ") :].splitlines()
    keys = [i for i, line in enumerate(lines) if line.startswith(("  model.", "  data.", "  trainer.", "  logging."))]
    assert len(keys) > 60
    assert [lines[i] for i in keys if not lines[i + 1].startswith(" " * 6)] == []
    assert "`" not in out


@pytest.mark.parametrize("command", ["validate", "test"])
def test_the_help_of_evaluation_says_that_keys_may_be_replaced(command: str, distill: Distill) -> None:
    _, out, _ = distill(command, "--help")
    assert "--key value" in out
    assert f"distill {command} runs/NAME/ID --data." in out


def test_list_shows_each_thing_with_its_defaults(distill: Distill) -> None:
    code, out, _ = distill("list")
    assert code == 0
    words = " ".join(out.split())
    for said in ("HintonKL", "temperature=2.0", "CrossEntropy", "Linear", "Determinism", "causal-lm", "quickstart/"):
        assert said in words
    code, out, _ = distill("list", "schedules")
    assert "WarmUp" in out
    assert "HintonKL" not in out


# ---------------------------------------------------------------------- fit


def test_a_run_folder_holds_everything_and_nothing_lies_beside_it(
    base: dict[str, Any], distill: Distill, teacher_dir: str
) -> None:
    before = files(Path())
    code, out, _ = distill("fit", "-c", "base.yaml", "--id", "one", "--logging.tensorboard", "true")
    assert code == 0
    assert {p.split("/")[0] for p in files(Path()) - before} == {"runs"}
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
    assert set(result["scores"]) == {"teacher", "student"}
    assert result["parameters"]["teacher"] > result["parameters"]["student"]
    for word in ("teacher", "student", "accuracy", "kept", "parameters", "train time"):
        assert word in out


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


def test_a_run_that_ends_within_an_epoch_is_validated_and_saved(base: dict[str, Any], distill: Distill) -> None:
    assert distill("fit", "-c", "base.yaml", "--id", "one").code == 0
    assert "val/accuracy" in Path("runs/base/one/metrics.csv").read_text()
    assert {p.name for p in Path("runs/base/one/checkpoints").iterdir()} == {"last-2.ckpt", "best-2.ckpt"}


def test_without_validation_the_last_student_is_saved(base: dict[str, Any], distill: Distill) -> None:
    assert distill("fit", "-c", "base.yaml", "--id", "one", "--trainer.limit_val_batches", "0").code == 0
    assert Path("runs/base/one/student/model.safetensors").is_file()
    assert Path("runs/base/one/checkpoints/last-2.ckpt").is_file()


def test_the_student_of_the_best_checkpoint_is_saved(base: dict[str, Any], distill: Distill) -> None:
    # A rate that ruins the student after the first validation.
    argv = ["--trainer.max_steps", "4", "--trainer.val_check_interval", "2", "--model.optimizer.lr", "0.3"]
    argv += ["--trainer.limit_val_batches", "1.0", "--model.optimizer.schedule", "constant"]
    assert distill("fit", "-c", "base.yaml", "--id", "one", *argv).code == 0
    result = json.loads(Path("runs/base/one/result.json").read_text())
    [best] = Path("runs/base/one/checkpoints").glob("best-*.ckpt")
    saved = torch.load(best, weights_only=True)
    assert result["saved_step"] == saved["global_step"]
    from distill import load as load_student

    student = load_student("runs/base/one")
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
    from distill.finished import evaluate
    from distill.launch import fit

    config = load(["base.yaml"], [("trainer.max_steps", "1")])
    run = fit(config, run_id="one")
    assert run.result["steps"] == 1
    assert evaluate(run.folder)["val/accuracy"] == pytest.approx(run.result["scores"]["student"]["accuracy"])
    with pytest.raises(UserError):
        fit(config, run_id="one")


# ---------------------------------------------------------------------- a dry run


def test_a_dry_run_tells_what_would_happen_and_writes_nothing(base: dict[str, Any], distill: Distill) -> None:
    before = files(Path())
    schedule = "{class_path: Linear, init_args: {start: 1.0, end: 0.0}}"
    argv = ["--trainer.max_steps", "40", "--model.losses.0.weight", schedule, "--id", "one"]
    code, out, err = distill("fit", "-c", "base.yaml", "--dry-run", *argv)
    assert code == 0, err
    assert files(Path()) == before
    for said in ("teacher", "student", "trained", "tokens a step", "memory of a step", "without validation"):
        assert said in out
    assert "40 (19 an epoch)" in out
    assert "runs/base/one" in out
    assert "0.75" in out  # the weight after a quarter
    [heads] = [line for line in out.splitlines() if "steps done" in line]
    assert [word for word in heads.split() if word.isdigit()] == ["0", "2", "10", "20", "29", "39"]


def test_a_dry_run_makes_up_no_id(base: dict[str, Any]) -> None:
    from distill.dry_run import dry_run

    assert dry_run(load(["base.yaml"]))["run_folder"] == "runs/base/<id given with --id, or made at the start>"


def test_a_dry_run_counts_what_a_run_would_do(base: dict[str, Any]) -> None:
    from distill.dry_run import dry_run

    config = load(["base.yaml"], [("trainer", "{max_steps: -1, max_epochs: 3, accumulate_grad_batches: 2}")])
    figures = dry_run(config)
    assert figures["steps_an_epoch"] == 10  # 150 samples, 8 a batch, 2 batches a step
    assert figures["steps"] == 30
    assert 0 < figures["tokens_a_step"] <= figures["padded_tokens_a_step"]
    assert figures["seconds"] == pytest.approx(30 * figures["seconds_a_step"])
    assert figures["trained_parameters"] == figures["student_parameters"] < figures["teacher_parameters"]
    # One step before the end, linear from the 2 steps of the warm-up down to 0.
    assert figures["timeline"]["learning rate"][-1] == pytest.approx(1e-3 * 1 / 28)


# ---------------------------------------------------------------------- validate and test


def test_a_saved_run_is_validated_with_the_figures_of_its_training(base: dict[str, Any], distill: Distill) -> None:
    distill("fit", "-c", "base.yaml", "--id", "one", "--trainer.limit_val_batches", "1.0")
    code, out, _ = distill("validate", "runs/base/one")
    assert code == 0
    result = json.loads(Path("runs/base/one/result.json").read_text())
    for name, value in result["scores"]["student"].items():
        assert f"val/{name}" in out
        assert f"{value:.4g}" in out


def test_test_reads_the_test_split(base: dict[str, Any], distill: Distill, text_folder: str) -> None:
    distill("fit", "-c", "base.yaml", "--id", "one")
    code, _, err = distill("test", "runs/base/one")
    assert code == 2
    assert "data.splits" in err
    code, out, _ = distill("test", "runs/base/one", "--data.splits.test", "validation")
    assert code == 0
    assert "test/accuracy" in out


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
    tmp_path: Path, distill: Distill, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("plainly.py").write_text(PLAIN)
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
    sys.modules.pop("plainly")
    sys.path.remove(str(tmp_path))


# ---------------------------------------------------------------------- being stopped


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_run_that_is_stopped_says_so_with_its_code(base: dict[str, Any], number: int, code: int) -> None:
    command = [sys.executable, "-m", "distill.cli", "fit", "-c", "base.yaml", "--trainer.max_steps", "100000"]
    command += ["--id", "one", "--trainer.log_every_n_steps", "1"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as running:
        for _ in range(600):
            if Path("runs/base/one/metrics.csv").is_file():
                break
            assert running.poll() is None
            time.sleep(0.1)
        running.send_signal(number)
        _, err = running.communicate(timeout=60)
    assert running.returncode == code
    assert "Traceback" not in err
