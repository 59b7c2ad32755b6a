"""An option that has no value of its kind, is given twice, or does nothing beside another one is one message."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

Distill = Callable[..., Any]


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        ("quantize nowhere --bits 5.5", "--bits = '5.5': must be an integer. give one, such as 8"),
        ("quantize nowhere --bits 9", "--bits = 9: must be one of 2, 3, 4, 5, 6, 7, 8, 16"),
        ("quantize nowhere --calibrate 1e3", "--calibrate = '1e3': must be an integer"),
        ("quantize nowhere --calibrate ٣", "--calibrate = '٣': must be an integer"),
        ("quantize nowhere --calibrate 1_0", "--calibrate = '1_0': must be an integer"),
        ("quantize nowhere --activations statik", "must be static, dynamic or none. did you mean 'static'?"),
        ("quantize nowhere --no-embeddings=yes", "--no-embeddings: takes no value. write --no-embeddings alone"),
        ("quantize nowhere --calibrate 9 --activations none", "--calibrate = 9: has no effect with --activations none"),
        ("sensitivity nowhere --sparsity 0,5", "--sparsity = '0,5': must be a number. give one, such as 0.8"),
        ("sensitivity nowhere --bits nan", "--bits = nan: must lie between 2 and 8"),
        ("sensitivity nowhere --output base.yaml", "--output = 'base.yaml': is a file, not a folder"),
        ("export nowhere --to hf --to onnx", "--to = 'onnx': is given twice, and was 'hf' before"),
        (
            "export nowhere --to onnxx",
            "--to = 'onnxx': must be hf, onnx, onnx-int8,",
        ),
        ("export nowhere elsewhere --to hf", "distill export = 'elsewhere': belongs to no option and no key"),
        ("quantize nowhere --outputs none --activations none", "--outputs = 'none': has no effect with --activations"),
        ("quantize nowhere --outputs auto --activations none", "--outputs = 'auto': has no effect with --activations"),
        ("quantize nowhere --group 0", "--group = 0: must be at least 2"),
        ("quantize nowhere --format fp16 --group 4", "--group = 4: has no effect with format: fp16"),
        ("quantize nowhere --format nf4 --asymmetric", "--asymmetric: has no effect with format: nf4"),
        ("prune nowhere --sparsity 0", "--sparsity = 0.0: prunes nothing. give a part above 0, such as 0.5"),
        ("prune nowhere --sparsity 50%", "--sparsity = '50%': must be a number. give 0.5"),
        ("prune nowhere --sparsity half", "--sparsity = 'half': must be a number. give one, such as 0.5"),
        ("report nowhere --no-timing --seconds 5", "--seconds = 5.0: has no effect with --no-timing"),
        ("report nowhere --no-timing --seconds 10", "--seconds = 10.0: has no effect with --no-timing"),
        ("report nowhere nowhere/", "RUN = 'nowhere/': is named twice"),
        ("evaluate any --tasks a --student-only --beside b", "--beside = 'b': has no effect with --student-only"),
        ("generate here a.txt --to b.jsonl --seed 0", "--seed = 0: has no effect with the most likely tokens"),
        (
            "record -c base.yaml --to here --as logits --concurrency 8",
            "--concurrency = 8: has no effect with a teacher",
        ),
        ("fit", "-c: must be given. distill fit -c FILE"),
        ("fit --model.task masked-lm", "-c: must be given"),
        ("fit -c", "--config: needs a value. see distill fit --help"),
        ("fit base.yaml", "distill fit = 'base.yaml': belongs to no option and no key. write -c base.yaml"),
        ("fit -c base.yaml --id a --id b", "--id = 'b': is given twice, and was 'a' before"),
        ("fit -c base.yaml --resume always --id a", "--resume = 'always': must be auto"),
        ("fit -c base.yaml --allow no.such.package", "--allow = 'no.such.package': there is no such package"),
        ("sweep sweep.yml -c base.yaml --seed 3", "--seed = 3: has no effect with method: grid"),
    ],
)
def test_it_is_reported_with_key_value_and_hint(argv: str, said: str, base: dict[str, Any], distill: Distill) -> None:
    Path("sweep.yml").write_text("{method: grid, parameters: {seed: {values: [1, 2]}}}")
    _refused(distill, argv.split(), said)


def test_what_only_training_knows_is_refused_of_a_run_that_has_been_trained(
    fitted: Callable[..., Path], distill: Distill
) -> None:
    run = str(fitted())
    for argv, said in (
        (["validate", run, "--trainer.max_epochs", "4"], "--trainer.max_epochs = '4': has no effect with a run that"),
        (["validate", run, "--callbacks", "[]"], "--callbacks = '[]': has no effect"),
        (["validate", run, "--seed", "9"], "--seed = '9': has no effect"),
        (["validate", run, "--runs", "other"], "--runs = 'other': has no effect"),  # but of quantize it has
        (["export", run, "--to", "hf", "--model.losses.0.weight", "9"], "--model.losses.0.weight = '9': has no effect"),
        (["export", run, "--to", "hf", "--model.optimizer.lr", "9"], "--model.optimizer.lr = '9': has no effect"),
        (["quantize", run, "--name", "a/b"], "--name = 'a/b': has no effect"),
        (["validate", run, "--model.student.path", "x"], "--model.student.path = 'x': has no effect with a run's own"),
        (["validate", run, "--trainer.limit_val_batches", "0"], "limit_val_batches = 0: leaves no batch to validate"),
        (["validate", run, "--trainer.limit_val_batches", "0.01"], "trainer.limit_val_batches = 0.01: You requested"),
        (["quantize", run, "--outputs", "none"], "--outputs = 'none': has no effect with a student without convolut"),
        (["sensitivity", run, "--output", "/proc/x"], "--output = '/proc/x': cannot be written to"),
    ):
        _refused(distill, argv, said)
    assert distill("validate", run, "--model.losses", "null", "--model.teacher", "null").code == 0


def _refused(distill: Distill, argv: Sequence[str], said: str) -> None:
    before = sorted(Path().rglob("*"))
    code, _, err = distill(*argv)
    assert code == 2
    assert said in err
    assert err.count("distill: error: ") == 1
    assert sorted(Path().rglob("*")) == before


@pytest.mark.parametrize(
    ("parameters", "more", "said"),
    [
        ("{model.optimizer.lr: {values: [0.1, x]}}", "", "model.optimizer.lr = 'x': must be a number"),
        ("{model.optimizer.lrr: {values: [0.1]}}", "", "model.optimizer.lrr = 0.1: OptimizerConfig has no 'lrr'"),
        ("{model.optimizer.lr: {values: [0.1, -1]}}", "", "model.optimizer.lr = -1.0: must be greater than 0"),
        ("{seed: {values: [1]}}", "model: 3", "model = 3: must be a mapping"),
    ],
)
def test_what_no_trial_could_have_is_reported_before_the_first(
    parameters: str, more: str, said: str, base: dict[str, Any], distill: Distill
) -> None:
    Path("sweep.yml").write_text(f"{{method: grid, parameters: {parameters}}}")
    Path("more.yaml").write_text(more)
    for dry in ([], ["--dry-run"]):
        _refused(distill, ["sweep", "sweep.yml", "-c", "base.yaml", "-c", "more.yaml", *dry], said)


def test_files_of_two_formats_and_labels_that_differ_by_capitals_are_told_apart(
    base: dict[str, Any], distill: Distill, text_folder: str
) -> None:
    Path("v.csv").write_text("sentence,label\na,negative\n")
    rows = '{"sentence": "a", "label": "Positive "}\n{"sentence": "b", "label": "negative"}\n'
    Path("v.jsonl").write_text(rows)
    for name, said in (("v.csv", "v.csv is csv"), ("v.jsonl", "did you mean 'positive'? capitals, blanks and signs")):
        files = f"{{train: {text_folder}/train.jsonl, validation: {name}}}"
        _refused(distill, ["fit", "-c", "base.yaml", "--data.path", "null", "--data.files", files], said)
