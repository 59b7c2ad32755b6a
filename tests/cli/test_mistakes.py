"""What Lightning or the file system would find wrong too late is one message of ours, and leaves nothing behind."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

LONG = "n" * 300
STRATEGIES, PLUGINS = "pytorch_lightning.strategies", "pytorch_lightning.plugins"


def callback(name: str, arguments: str = "{}") -> list[str]:
    return ["--callbacks", f"[{{class_path: {name}, init_args: {arguments}}}]"]


# What is added to `distill fit -c base.yaml`, and what the message must say.
CASES: dict[str, tuple[list[str], list[str]]] = {
    # callbacks
    "a monitor that is none": (callback("EarlyStopping", "{monitor: val/acuracy}"), ["0.monitor", "'val/accuracy'"]),
    "a best by what is not logged": (callback("ModelCheckpoint", "{monitor: nope}"), ["0.monitor = 'nope'", "no such"]),
    "a monitor without validation": (
        [*callback("EarlyStopping", "{monitor: val/accuracy}"), "--trainer.limit_val_batches", "0"],
        ["callbacks.0.monitor = 'val/accuracy'", "'train/loss'"],
    ),
    "checkpoints elsewhere": (
        callback("ModelCheckpoint", "{dirpath: /etc/x}"),
        ["callbacks.0.dirpath", "run's folder"],
    ),
    "no time": (callback("Timer", "{duration: '00:00:00:00'}"), ["callbacks.0.duration", "greater than 0"]),
    "an argument that Lightning refuses": (
        callback("GradientAccumulationScheduler", "{scheduling: {0: 0}}"),
        ["callbacks.0 = 'GradientAccumulationScheduler'", "greater than 0"],
    ),
    "a callback that finds no logger": (
        [*callback("LearningRateMonitor"), "--logging.csv", "false"],
        ["callbacks.0 = 'LearningRateMonitor'", "no logger"],
    ),
    "a callback that is null": (["--callbacks", "[null]"], ["callbacks.0: must be a Callback"]),
    # the trainer
    "a device that is not there": (["--trainer.accelerator", "mps"], ["trainer.accelerator = 'mps'"]),
    "no device": (["--trainer.devices", "0"], ["trainer.devices = 0: must be at least 1"]),
    "an empty list of devices": (["--trainer.devices", "[]"], ["trainer.devices = []"]),
    "negative clipping": (["--trainer.gradient_clip_val", "-1"], ["gradient_clip_val = -1", "greater than 0"]),
    "a clipping of nothing": (["--trainer.gradient_clip_algorithm", "norm"], ["gradient_clip_algorithm", "too"]),
    "validation after the epoch": (["--trainer.val_check_interval", "1000"], ["val_check_interval = 1000", "(19)"]),
    "validation after the epoch, tried dry": (
        ["--trainer.val_check_interval", "1000", "--dry-run"],
        ["trainer.val_check_interval = 1000", "an epoch has 19 batches"],
    ),
    "validation every 0 batches": (["--trainer.val_check_interval", "0"], ["val_check_interval = 0: must be greater"]),
    "more than all of the validation": (
        ["--trainer.limit_val_batches", "1.5", "--dry-run"],
        ["trainer.limit_val_batches = 1.5", "fraction in [0, 1]"],
    ),
    "a prediction of nothing": (
        ["--trainer.limit_predict_batches", "1"],
        ["limit_predict_batches = 1", "leave it out"],
    ),
    "a limit that overfitting replaces": (
        ["--trainer.overfit_batches", "1"],
        ["trainer.limit_val_batches = 1: has no effect with trainer.overfit_batches"],
    ),
    "another tool's precision": (["--trainer.precision", "fp16"], ["precision = 'fp16'", "did you mean '16-mixed'?"]),
    "no precision": (["--trainer.precision", "no"], ["precision = False", "did you mean '32-true'?"]),
    "an accelerator that is not there": (["--trainer.accelerator", "mps"], ["give cpu, or auto"]),
    "null for a number": (["--data.eval_batch_size", "null"], ["data.eval_batch_size: must be an integer", "null"]),
    "null for a number of the trainer": (["--trainer.accumulate_grad_batches", "null"], ["must be an integer", "null"]),
    "null for a number deep in a list": (
        callback("ResumeCheckpoint", "{keep: null}"),
        ["callbacks.0.keep: must be an integer. this is null"],
    ),
    "null for a part of the model": (["--model.optimizer.lr", "null"], ["model.optimizer.lr: must be a number"]),
    "a callback twice": (
        ["--callbacks", "[ResumeCheckpoint, ResumeCheckpoint]"],
        ["each of them is given once", "leave one ResumeCheckpoint out"],
    ),
    "an average that never begins": (
        callback("ExponentialMovingAverage", "{begin: 100}"),
        ["ExponentialMovingAverage.begin = 100", "the run ends after 2 steps"],
    ),
    "a weight that never comes to its end": (
        ["--model.losses.0.weight", "{class_path: WarmUp, init_args: {value: 1.0, steps: 50}}"],
        ["model.losses.0.weight.steps = 50", "the run ends after 2 steps"],
    ),
    "a temperature that ends before it begins": (
        ["--model.losses.0.temperature", "{class_path: Linear, init_args: {start: 1, end: 2, begin: 1.0, until: 1}}"],
        ["model.losses.0.temperature.begin = 1.0", "must not lie after 'until'"],
    ),
    "no batches": (["--trainer.limit_train_batches", "0"], ["limit_train_batches = 0", "must train"]),
    "less than a batch": (["--trainer.limit_train_batches", "0.0001"], ["limit_train_batches = 0.0001"]),
    "no time for the run": (["--trainer.max_time", "00:00:00:00"], ["trainer.max_time", "greater than 0"]),
    "validation every 0 epochs": (["--trainer.check_val_every_n_epoch", "0"], ["check_val_every_n_epoch = 0"]),
    "a number that is none": (["--trainer.gradient_clip_val", ".nan"], ["gradient_clip_val = nan", "finite"]),
    "processes out of this one": (
        ["--trainer.strategy", "ddp_notebook"],
        ["trainer.strategy = 'ddp_notebook'", "write ddp"],
    ),
    "the same by its class": (
        ["--trainer.strategy", f"{{class_path: {STRATEGIES}.DDPStrategy, init_args: {{start_method: fork}}}}"],
        ["trainer.strategy = 'DDPStrategy'", "write ddp"],
    ),
    "a strategy that is none": (["--trainer.strategy", "nope"], ["trainer.strategy = 'nope'"]),
    "a package that is not there": (
        ["--trainer.strategy", f"{{class_path: {STRATEGIES}.DeepSpeedStrategy}}"],
        ["trainer.strategy = 'DeepSpeedStrategy'", "install it (pip install -U deepspeed)"],
    ),
    "another writer of checkpoints": (
        ["--trainer.plugins", f"[{{class_path: {PLUGINS}.AsyncCheckpointIO}}]"],
        ["trainer.plugins.0 = 'AsyncCheckpointIO'", "leave it out"],
    ),
    "a precision in another place": (
        ["--trainer.plugins", f"[{{class_path: {PLUGINS}.DoublePrecision}}]"],
        ["trainer.plugins.0 = 'DoublePrecision'", "set trainer.precision"],
    ),
    # the objective
    "no weight": (["--model.losses", "[{class_path: CrossEntropy, init_args: {weight: 0}}]"], ["all losses are 0"]),
    "a loss that is null": (["--model.losses", "[null]"], ["model.losses.0: must be a DistillationLoss"]),
    "betas that are none": (["--model.optimizer.betas", "[2, 3]"], ["optimizer.betas = [2.0, 3.0]", "[0, 1)"]),
    "a momentum that is none": (["--model.optimizer.momentum", "-1"], ["optimizer.momentum = -1"]),
    "a rate that is no number": (["--model.optimizer.lr", ".inf"], ["optimizer.lr = inf", "finite"]),
    "a warm-up longer than the run": (["--model.optimizer.warmup", "100"], ["warmup = 100", "has 2 steps"]),
    "no task": (["--model.task", "null"], ["model.task: must be a text or a Task. this is null"]),
    # names
    "an empty id": (["--id", ""], ["--id = '': must not be empty"]),
    "a long id": (["--id", LONG], ["--id", "no longer than 200"]),
    "a long name": (["--name", LONG], ["name = ", "no longer than 200"]),
    "a long folder": (["--runs", LONG], ["runs = ", "too long"]),
    "a long start": (["--from", LONG], ["too long"]),
    "a long file": (["-c", LONG], ["--config", "too long"]),
    "a long teacher": (["--model.teacher", f"./{LONG}"], ["model.teacher = ", "too long"]),
    "a long data set": (["--data.path", f"./{LONG}"], ["data.path = ", "too long"]),
}


@pytest.mark.parametrize(("argv", "said"), CASES.values(), ids=CASES.keys())
def test_it_is_one_message_and_nothing_is_written(
    argv: list[str], said: list[str], refused: Callable[..., str]
) -> None:
    message = refused(*argv)
    for words in said:
        assert words in message


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["export", "nowhere", "--to", "hf", "--isa", "avx2"], "--isa = 'avx2': hf stores no integers"),
        (["export", "nowhere", "--to", "hf", "--output", LONG], "--output = "),
        (["sensitivity", "nowhere", "--output", LONG], "--output = "),
        (["sensitivity", "nowhere", "--output", ""], "--output = '': must not be empty"),
        (["quantize", "nowhere", "--id", ""], "--id = '': must not be empty"),
        (["validate", LONG], "RUN = "),
        (["runs", LONG], "too long"),
        (["runs", ""], "FOLDER = '': must not be empty"),
        (["sweep", LONG, "-c", "base.yaml"], "FILE = "),
        (["fit", "-c", "base.yaml", "--id", "../../one", "--resume", "auto"], "--id = '../../one': must be a folder's"),
        (["fit", "-c", "base.yaml", "--runs", "~no.such.user/x"], "runs = '~no.such.user/x': there is no such user"),
        (
            ["fit", "-c", "base.yaml", "--model.teacher", "~no.such.user/x"],
            "model.teacher = '~no.such.user/x': no such folder",
        ),
        (["fit", "-c", "~no.such.user/x"], "--config = '~no.such.user/x': no such file"),
        (["validate", "~no.such.user/x"], "RUN = '~no.such.user/x': no such folder"),
        (
            ["export", "nowhere", "--to", "hf", "--output", "~no.such.user/x"],
            "--output = '~no.such.user/x': there is no such user",
        ),
        (["sweep", "~no.such.user/x", "-c", "base.yaml"], "FILE = '~no.such.user/x': no such file"),
        (["runs", "--compare", "~no.such.user/a", "~no.such.user/b"], "--compare = '~no.such.user/a': no such folder"),
    ],
)
def test_other_commands_say_so_before_they_begin(
    argv: list[str], said: str, base: dict[str, Any], distill: Callable[..., Any]
) -> None:
    before = sorted(Path().rglob("*"))
    code, _, err = distill(*argv)
    assert code == 2
    assert said in err
    assert err.count("\n") == 1
    assert sorted(Path().rglob("*")) == before


# ---------------------------------------------------------------------- every callback of Lightning's

CANNOT = {
    "BackboneFinetuning": "model.student.freeze",
    "BaseFinetuning": "model.student.freeze",
    "BasePredictionWriter": "leave it out",
    "BatchSizeFinder": "set data.batch_size",
    "Callback": "distill list callbacks",
    "Checkpoint": "name ModelCheckpoint",
    "LearningRateFinder": "distill sweep",
    "ProgressBar": "name RichProgressBar",
    "SpikeDetection": "leave it out",
    "ThroughputMonitor": "--dry-run",
}
NEEDED = {
    "ThroughputMonitor": "{batch_size_fn: torch.numel}",
}
TOGETHER = {
    "EMAWeightAveraging": "{}",
    "EarlyStopping": "{monitor: val/accuracy}",
    "GradientAccumulationScheduler": "{scheduling: {0: 1}}",
    "LambdaCallback": "{}",
    "LearningRateMonitor": "{}",
    "ModelCheckpoint": "{}",
    "ModelSummary": "{}",
    "RichModelSummary": "{}",
    "TQDMProgressBar": "{}",
    "Timer": "{duration: '01:00:00:00'}",
}
ELSEWHERE = {
    "DeviceStatsMonitor",  # wants psutil, which may be there
    "OnExceptionCheckpoint",  # wants a path, test_strange_folders.py
    "ModelPruning",  # callbacks/test_rivals.py
    "RichProgressBar",  # the run's own is one
    "StochasticWeightAveraging",  # resume/test_exactness.py
    "WeightAveraging",  # as that of EMA
}


@pytest.mark.parametrize(("name", "instead"), CANNOT.items(), ids=CANNOT)
def test_what_cannot_work_is_refused_by_name(name: str, instead: str, refused: Callable[..., str]) -> None:
    message = refused(*callback(name, NEEDED.get(name, "{}")))
    assert f"callbacks.0 = '{name}'" in message
    assert instead in message


def test_all_else_works(base: dict[str, Any], distill: Callable[..., Any]) -> None:
    given = ", ".join(f"{{class_path: {name}, init_args: {more}}}" for name, more in TOGETHER.items())
    code, out, err = distill(
        "fit", "-c", "base.yaml", "--callbacks", f"[{given}]", "--trainer.enable_progress_bar", "null"
    )
    assert code == 0, err
    assert "student of step" in out


def test_no_callback_of_lightning_is_left_out() -> None:
    from pytorch_lightning import Callback

    from distill.workflows.job.explain import get_all_subclass_paths

    lightnings = [p for p in get_all_subclass_paths(Callback) if p.startswith(("pytorch_lightning.", "lightning."))]
    names = {path.rsplit(".", 1)[-1] for path in lightnings if "._" not in path}
    assert names <= CANNOT.keys() | TOGETHER.keys() | ELSEWHERE


# ---------------------------------------------------------------------- after the first batch


def test_what_lightning_refuses_after_the_first_batch_keeps_the_run() -> None:
    from pytorch_lightning import LightningModule, Trainer
    from pytorch_lightning.callbacks import EarlyStopping

    from distill.core.utils.errors import TrainingError, UserError
    from distill.workflows.job.lightning_refusals import explained

    stopping, options = EarlyStopping("nope"), {"logger": False, "enable_checkpointing": False, "accelerator": "cpu"}

    def fit(begun: bool) -> None:
        trainer = Trainer(**options, enable_progress_bar=False)  # type: ignore[arg-type]
        with explained(trainer, [stopping], {}):
            if begun:
                trainer.callbacks[0].on_train_batch_start(trainer, LightningModule(), None, 0)  # type: ignore[attr-defined]
            stopping._validate_condition_metric({})

    said = r"callbacks\.0 = 'EarlyStopping': Early stopping conditioned on metric `nope`"
    with pytest.raises(UserError, match=said):
        fit(begun=False)
    with pytest.raises(TrainingError, match=said):
        fit(begun=True)


def test_a_fault_of_ours_is_none_of_the_users() -> None:
    from pytorch_lightning import Trainer

    from distill.workflows.job.lightning_refusals import explained

    trainer = Trainer(logger=False, enable_checkpointing=False, accelerator="cpu", enable_progress_bar=False)
    with pytest.raises(ValueError, match="ours"), explained(trainer, [], {}):
        raise ValueError("ours")
