"""Whatever a user gets wrong is one message with key, value, problem and hint, exit code 2, and nothing written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

LOSS = "model.losses.0"
ATTENTION = "[{class_path: AttentionTransfer}]"

# What is added to `distill fit -c base.yaml`, and what the message must say: the key with the value, words of
# the rule, words of the hint.
CASES: dict[str, tuple[list[str], list[str]]] = {
    # keys
    "unknown key at the top": (["--modle", "x"], ["modle = 'x'", "no such key", "did you mean 'model'"]),
    "key of another level": (["--batch_size", "4"], ["batch_size = 4", "did you mean 'data.batch_size'"]),
    "unknown key of the model": (["--model.studnt", "x"], ["model.studnt = 'x'", "did you mean 'student'"]),
    "unknown key of the student": (["--model.student.layrs", "[1]"], ["model.student.layrs", "did you mean 'layers'"]),
    "unknown key of the teacher": (["--model.teacher.pth", "x"], ["model.teacher.pth = 'x'", "did you mean 'path'"]),
    "unknown key of a loss": ([f"--{LOSS}.temprature", "2"], [f"{LOSS}.temprature = 2", "did you mean 'temperature'"]),
    "unknown key of the optimizer": (["--model.optimizer.learning_rate", "1"], ["optimizer.learning_rate = 1", "'lr'"]),
    "unknown key of the data": (["--data.batchsize", "4"], ["data.batchsize = 4", "did you mean 'batch_size'"]),
    "unknown key of the trainer": (
        ["--trainer.max_epoch", "1"],
        ["trainer.max_epoch = 1", "did you mean 'max_epochs'"],
    ),
    "unknown key of logging": (["--logging.wandbb", "{}"], ["logging.wandbb = {}", "did you mean 'wandb'"]),
    "unknown key of W&B": (["--logging.wandb.projct", "x"], ["logging.wandb.projct = 'x'", "did you mean 'project'"]),
    "unknown key of a callback": (
        ["--callbacks", "[{class_path: EarlyStopping, init_args: {monitr: x}}]"],
        ["callbacks.0.monitr = 'x'", "did you mean 'monitor'"],
    ),
    "unknown key of a schedule": (
        [f"--{LOSS}.weight", "{class_path: Linear, init_args: {start: 0, stop: 1}}"],
        [f"{LOSS}.weight.stop = 1", "Linear has no 'stop'"],
    ),
    "argument of the trainer that stands elsewhere": (
        ["--trainer.callbacks", "[]"],
        ["trainer.callbacks = []", "write callbacks at the top level"],
    ),
    # types
    "text for a number": (
        [f"--{LOSS}.temperature", "hot"],
        [f"{LOSS}.temperature = 'hot'", "must be a number or a Sch"],
    ),
    "fraction for an integer": (["--data.batch_size", "8.5"], ["data.batch_size = 8.5", "must be an integer"]),
    "text for true or false": (
        ["--data.bucketing", "perhaps"],
        ["data.bucketing = 'perhaps'", "must be true or false"],
    ),
    "number for a mapping": (["--model", "3"], ["model = 3", "must be a mapping"]),
    "mapping for a list": (["--callbacks", "{}"], ["callbacks = {}", "must be a list"]),
    "a width that is none": (
        ["--callbacks", "[{class_path: QuantizationAwareTraining, init_args: {weights: {bits: 5.5}}}]"],
        ["callbacks.0.weights.bits = 5.5", "must be one of 2, 3, 4, 5, 6, 7, 8, 16"],
    ),
    "a width of a layer that is none": (
        ["--callbacks", "[{class_path: QuantizationAwareTraining, init_args: {overrides: {dense: 5.5}}}]"],
        ["callbacks.0.overrides.dense = 5.5", "one of 2, 3, 4, 5, 6, 7, 8, 16"],
    ),
    "text for the seed": (["--seed", "one"], ["seed = 'one'", "must be an integer"]),
    "unknown choice": (["--model.optimizer.name", "adam"], ["model.optimizer.name = 'adam'", "one of 'adamw', 'sgd'"]),
    "unknown precision": (["--trainer.precision", "fp8"], ["trainer.precision = 'fp8'", "one of", "'bf16-mixed'"]),
    "argument that must be given": (
        [f"--{LOSS}.weight", "{class_path: Linear}"],
        [f"{LOSS}.weight.start", "must be given", "a number"],
    ),
    "no student": (["--model.student", "null"], ["model.student: must be given", "a StudentConfig"]),
    # values
    "temperature 0": (
        [f"--{LOSS}.temperature", "0"],
        [f"{LOSS}.temperature = 0: must be greater than 0", "1.0 leaves"],
    ),
    "negative weight": ([f"--{LOSS}.weight", "-1"], [f"{LOSS}.weight = -1: must be 0 or more"]),
    "schedule that begins before the run": (
        [f"--{LOSS}.weight", "{class_path: Linear, init_args: {start: 0, end: 1, begin: -1}}"],
        [f"{LOSS}.weight.begin = -1", "must be a step"],
    ),
    "learning rate 0": (["--model.optimizer.lr", "0"], ["model.optimizer.lr = 0", "must be greater than 0"]),
    "warm-up longer than the run": (["--model.optimizer.warmup", "1.5"], ["optimizer.warmup = 1.5", "less than 1"]),
    "seed out of range": (["--seed", "-1"], ["seed = -1", "must be from 0"]),
    "no end": (["--trainer.max_steps", "-1"], ["trainer.max_epochs", "a run needs an end", "max_steps"]),
    "no epochs": (["--trainer.max_epochs", "0"], ["trainer.max_epochs = 0", "must be at least 1"]),
    "no accumulation": (["--trainer.accumulate_grad_batches", "0"], ["accumulate_grad_batches = 0", "at least 1"]),
    "unknown accelerator": (["--trainer.accelerator", "abacus"], ["trainer", "abacus"]),
    "no loss": (["--model.losses", "[]"], ["model.losses = []", "at least one loss", "CrossEntropy"]),
    "two losses of one name": ([f"--{LOSS}.name", "cross_entropy"], ["model.losses.1.name", "must differ"]),
    "name that is a path": (["--name", "../../x"], ["name = '../../x'", "must be a folder's name"]),
    "name that is a number": (["--name", "12"], ["name = 12", "must be a text", """--name '"12"'."""]),
    "name that is a truth value": (["--name", "yes"], ["name = True", "must be a text", """--name '"TEXT"'."""]),
    "runs in a number": (["--runs", "1e3"], ["runs = 1000.0", "must be a folder", """--runs '"TEXT"'."""]),
    "runs in a file": (["--runs", "base.yaml/runs"], ["runs = 'base.yaml/runs'", "cannot be written to"]),
    # classes
    "unknown loss": (["--model.losses", "[HintonLK]"], ["model.losses.0 = 'HintonLK'", "did you mean 'HintonKL'"]),
    "loss of an unknown module": (
        ["--model.losses", "[distill.losses.Nope]"],
        ["distill.losses.Nope", "cannot be imp"],
    ),
    "class that is no loss": (["--model.losses", "[torch.nn.Linear]"], ["'torch.nn.Linear'", "is no DistillationLoss"]),
    "abstract class": (["--model.losses", "[distill.losses.DistillationLoss]"], ["DistillationLoss'", "is abstract"]),
    "no class_path": (["--model.losses", "[{init_args: {}}]"], ["model.losses.0", "class_path", "CrossEntropy"]),
    "class outside the allowed": (["--model.losses", "[evil.Loss]"], ["losses.0 = 'evil.Loss'", "--allow evil"]),
    "function that loads code": (["--callbacks", "[torch.hub.load]"], ["'torch.hub.load'", "loads code"]),
    "no package to allow": (["--allow", "a b"], ["--allow = 'a b'", "must be the name of a package"]),
    # files and options
    "missing file": (["-c", "bas.yaml"], ["--config = 'bas.yaml'", "no such file", "did you mean 'base.yaml'"]),
    "broken file": (["-c", "broken.yaml"], ["broken.yaml", "is not valid YAML (line 2", "correct"]),
    "key given twice": (["-c", "twice.yaml"], ["twice.yaml", "'seed' is given twice", "line 2"]),
    "file without a mapping": (["-c", "list.yaml"], ["list.yaml", "must hold a mapping"]),
    "option without a value": (["--seed"], ["--seed", "needs a value", "--seed=VALUE"]),
    "position beyond the list": (["--model.losses.7.weight", "1"], ["--model.losses.7", "a list of 2"]),
    "key below a number": (["--model.optimizer.lr.x", "1"], ["--model.optimizer.lr = 0.001", "holds no keys"]),
    "argument that means nothing": (["extra"], ["extra", "write -c extra"]),
    "secret that was taken out": (["--data.name", "***"], ["data.name = '***'", "secret", "--data.name"]),
    # data
    "no data": (["--data.path", "null"], ["data.path", "missing"]),
    "missing folder": (["--data.path", "./nowhere"], ["data.path = './nowhere'", "no such folder"]),
    "unknown split": (["--data.splits", "{validation: dev}"], ["data.splits.validation = 'dev'", "no such split"]),
    "unknown column": (
        ["--data.columns", "{text: sentense}"],
        ["columns.text = 'sentense'", "did you mean 'sentence'"],
    ),
    "unknown task": (["--model.task", "clasification"], ["model.task = 'clasification'", "no such task"]),
    "batch of no samples": (["--data.batch_size", "0"], ["data.batch_size = 0", "must be at least 1"]),
    "longer than the model reads": (["--data.max_length", "999"], ["data.max_length = 999", "has 128 positions"]),
    "empty split": (
        ["--data.files", "{train: empty.csv, validation: empty.csv}", "--data.path", "null"],
        ["data.files", "no data"],
    ),
    "label out of range": (
        ["--data.path", "null", "--data.files", "{train: five.jsonl, validation: five.jsonl}"],
        ["label"],
    ),
    "label that is no number": (
        ["--data.path", "null", "--data.files", "{train: nan.jsonl, validation: nan.jsonl}"],
        ["data.", "label"],
    ),
    # models
    "missing teacher": (["--model.teacher.path", "./nowhere"], ["model.teacher.path = './nowhere'", "no such folder"]),
    "pickled weights": (["--model.teacher.path", "./pickled"], ["'./pickled'", "pytorch_model.bin", "run code"]),
    "layer that the teacher lacks": (
        ["--model.student.layers", "[1, 9]", "--model.student.num_layers", "null"],
        ["model.student.layers", "9", "4"],
    ),
    "no origin of the student": (
        ["--model.student", "{layers: null, num_layers: null}"],
        ["model.student", "where the student comes from"],
    ),
    "layer that a loss lacks": (
        ["--model.losses", "[{class_path: FitNetHint, init_args: {layers: {7: 1}}}]"],
        ["model.losses.0.layers", "7"],
    ),
    "attention maps under SDPA": (["--model.losses", ATTENTION], ["attn_implementation", "eager"]),
    "teacher of other classes": (["--model.teacher.path", "./three"], ["model.teacher", "class"]),
    "loss that needs a teacher": (
        ["--model.teacher", "null", "--model.student", "{path: ./three}", "--data.tokenizer", "./three"],
        ["model.", "teacher"],
    ),
}


@pytest.fixture
def around(base: dict[str, Any], teacher_dir: str) -> None:
    """The files that some cases name."""
    from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

    Path("broken.yaml").write_text("model: {a: b\ndata: ]")
    Path("twice.yaml").write_text("seed: 1\nseed: 2\n")
    Path("list.yaml").write_text("- a\n")
    Path("empty.csv").write_text("sentence,label\n")
    Path("five.jsonl").write_text("".join(f'{{"sentence": "a film", "label": {i}}}\n' for i in (0, 1, 5, -3)))
    Path("nan.jsonl").write_text('{"sentence": "a film", "label": NaN}\n{"sentence": "b", "label": 1.0}\n')
    Path("pickled").mkdir()
    Path("pickled/pytorch_model.bin").write_bytes(b"")
    Path("pickled/config.json").write_text(Path(teacher_dir, "config.json").read_text())
    AutoTokenizer.from_pretrained(teacher_dir).save_pretrained("pickled")
    config = AutoConfig.from_pretrained(teacher_dir, num_labels=3)
    AutoModelForSequenceClassification.from_config(config).save_pretrained("three")
    AutoTokenizer.from_pretrained(teacher_dir).save_pretrained("three")


@pytest.mark.parametrize(("argv", "said"), CASES.values(), ids=CASES.keys())
def test_a_mistake_is_one_message_and_nothing_is_written(
    argv: list[str], said: list[str], around: None, refused: Callable[..., str]
) -> None:
    message = refused(*argv)
    for words in said:
        assert words in message


def test_the_run_that_the_cases_change_works(base: dict[str, Any], distill: Callable[..., Any]) -> None:
    code, out, _ = distill("fit", "-c", "base.yaml", "--id", "one")
    assert code == 0
    assert "student of step 2" in out
    assert Path("runs/base/one/student/model.safetensors").is_file()


def test_a_run_folder_that_exists_is_not_touched(base: dict[str, Any], distill: Callable[..., Any]) -> None:
    Path("runs/base/one").mkdir(parents=True)
    code, _, err = distill("fit", "-c", "base.yaml", "--id", "one")
    assert code == 2
    assert "--id = 'one': the run folder runs/base/one exists" in err
    assert not any(Path("runs/base/one").iterdir())


def test_there_are_at_least_forty_cases() -> None:
    assert len(CASES) >= 40


@pytest.mark.parametrize("command", ["validate", "test"])
@pytest.mark.parametrize(("run", "said"), [("nowhere", "no such folder"), (".", "is no run's folder")])
def test_what_is_no_run_is_not_evaluated(
    command: str, run: str, said: str, base: dict[str, Any], distill: Callable[..., Any]
) -> None:
    code, _, err = distill(command, run)
    assert code == 2
    assert f"RUN = {run!r}: {said}" in err


def test_a_run_without_a_student_is_not_evaluated(base: dict[str, Any], distill: Callable[..., Any]) -> None:
    folder = Path("runs/base/one")
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(base))
    code, _, err = distill("validate", str(folder))
    assert code == 2
    assert "has saved no student yet" in err


@pytest.mark.parametrize("argv", [["fti"], ["list", "loses"], ["validate"]])
def test_a_command_that_is_wrong_says_what_there_is(argv: list[str], distill: Callable[..., Any]) -> None:
    code, _, err = distill(*argv)
    assert code == 2
    assert err.startswith("distill: error: ")
    assert err.count("\n") == 1
