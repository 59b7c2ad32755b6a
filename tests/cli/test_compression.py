"""What a run promises that distils, prunes and quantises, and what can be done with it afterwards."""

from __future__ import annotations

import copy
import csv
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import yaml
from safetensors.torch import load_file
from torch import Tensor, nn

import distill as package
from distill import launch
from distill.artifact import steps_of
from distill.config import load
from distill.errors import UserError
from distill.finished import evaluate, quantize
from distill.run import Run

Distill = Callable[..., Any]

PRUNE = {
    "class_path": "GradualMagnitudePruning",
    "init_args": {"final_sparsity": 0.8, "end": 0.5, "every_n_steps": 2},
}
QUANTIZE = {
    "class_path": "QuantizationAwareTraining",
    "init_args": {"begin": 0.6, "observe": 0.2, "freeze_observers": 0.9},
}
ENCODER = [  # all that is pruned of two layers of BERT, written out
    *(
        f"bert.encoder.layer.{layer}.{map_}.weight"
        for layer in (0, 1)
        for map_ in (
            "attention.self.query",
            "attention.self.key",
            "attention.self.value",
            "attention.output.dense",
            "intermediate.dense",
            "output.dense",
        )
    ),
    "bert.pooler.dense.weight",
]


class Fitted(NamedTuple):
    run: Run
    module: Any
    inputs: Mapping[str, Tensor]

    def logits(self, model: nn.Module | None = None) -> Tensor:
        model = (model or self.module.student).eval()
        with torch.no_grad():
            logits: Tensor = model(**self.inputs).logits
            return logits


def train(folder: Path, recipe: Mapping[str, Any], callbacks: list[Any], **changes: Any) -> Fitted:
    """A run of 20 steps in ``folder``, with the module as it is when the run has ended."""
    config = copy.deepcopy(dict(recipe)) | {"runs": str(folder / "runs"), "callbacks": callbacks}
    config["trainer"] |= {"max_steps": 20, "val_check_interval": 5, "limit_val_batches": 1.0, "log_every_n_steps": 5}
    for section, values in changes.items():
        config[section] = config[section] | values if isinstance(values, dict) else values
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(config))
    jobs: list[Any] = []
    build = launch.build
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(launch, "build", lambda *given, **named: jobs.append(build(*given, **named)) or jobs[0])
        run = launch.fit(load([str(path)]), run_id="one")
    [job] = jobs
    batch = job.module.task.batch(next(iter(job.data.val_dataloader())))
    return Fitted(run, job.module.cpu(), batch.inputs)


@pytest.fixture(scope="module")
def joint(tmp_path_factory: pytest.TempPathFactory, recipe: dict[str, Any]) -> Fitted:
    """Distilled, 80 % pruned and quantised."""
    return train(tmp_path_factory.mktemp("joint"), recipe, [PRUNE, QUANTIZE])


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory, recipe: dict[str, Any]) -> Fitted:
    """Distilled only."""
    return train(tmp_path_factory.mktemp("plain"), recipe, [])


def zeros(state: Mapping[str, Tensor], names: list[str]) -> tuple[int, int]:
    """How many of the weights are zero, and how many there are."""
    weights = torch.cat([state[name].flatten() for name in names])
    return int((weights == 0).sum()), weights.numel()


# ---------------------------------------------------------------------- one run


def test_the_shipped_weights_have_exactly_the_zeros_that_were_asked_for(joint: Fitted) -> None:
    state = load_file(joint.run.student / "model.safetensors")
    count, total = zeros(state, ENCODER)
    assert count == round(0.8 * total)
    assert zeros(state, ["classifier.weight"])[0] == 0


def test_the_record_lists_the_steps_in_the_order_in_which_they_were_done(joint: Fitted) -> None:
    steps = json.loads((joint.run.student / "compression.json").read_text())["steps"]
    assert [step["kind"] for step in steps] == ["layers", "sparsity", "quantize"]
    _, sparsity, quantize = steps
    assert [f"{name}.weight" for name in sparsity["layers"]] == ENCODER
    assert sparsity["actual"] == pytest.approx(0.8, abs=1e-4)
    embeddings = {f"bert.embeddings.{name}_embeddings" for name in ("word", "position", "token_type")}
    assert set(quantize["modules"]) == {name.removesuffix(".weight") for name in ENCODER} | embeddings


def test_the_score_of_the_run_is_that_of_the_shipped_student(joint: Fitted) -> None:
    scores = joint.run.result["scores"]["student"]
    found = evaluate(joint.run.folder)
    assert {name: found[f"val/{name}"] for name in scores} == scores


def test_the_student_loads_with_the_logits_of_the_finished_one_to_the_bit(joint: Fitted) -> None:
    assert torch.equal(joint.logits(package.load(joint.run.student)), joint.logits())
    assert steps_of(joint.module.student) == steps_of(package.load(joint.run.folder))


def test_nothing_of_training_is_left_in_the_shipped_weights(joint: Fitted) -> None:
    names = set(load_file(joint.run.student / "model.safetensors"))
    assert not [name for name in names if "mask" in name or "observer" in name]
    assert set(ENCODER) < names


def test_the_course_of_the_compression_is_drawn_and_logged(joint: Fitted) -> None:
    assert (joint.run.folder / "timeline.png").read_bytes().startswith(b"\x89PNG")
    with (joint.run.folder / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    columns: dict[str, dict[int, float]] = {}
    for row in rows:
        for name, value in row.items():
            if value and name != "step":
                columns.setdefault(name, {})[int(row["step"])] = float(value)
    assert columns["prune/sparsity"][10] == pytest.approx(0.8, abs=1e-4)
    assert columns["qat/fake_quant"] == {5: 0.0, 10: 0.0, 15: 1.0, 20: 1.0}
    assert set(columns["val/float_accuracy"]) == {15, 20}
    assert set(columns["val/accuracy"]) == {5, 10, 15, 20}


def test_a_dry_run_shows_when_what_is_compressed(base: dict[str, Any], distill: Distill) -> None:
    Path("base.yaml").write_text(yaml.safe_dump(base | {"callbacks": [PRUNE, QUANTIZE]}))
    code, out, err = distill("fit", "-c", "base.yaml", "--dry-run", "--trainer.max_steps", "40")
    assert code == 0, err
    lines = {line.split("│")[1].strip(): line.split("│")[2:-1] for line in out.splitlines() if line.count("│") > 3}
    course = {name: [float(cell) for cell in cells] for name, cells in lines.items() if name != "steps done"}
    assert course["sparsity"][0] == 0.0
    assert course["sparsity"][-1] == 0.8
    assert course["fake_quant"] == [0, 0, 0, 0, 1, 1]
    assert not Path("runs").exists()


SCRIPTED = """
import itertools
import torch
from torchmetrics import Metric
from distill.tasks import TextClassification

class Falling(Metric):
    values = itertools.count(9, -1)
    def update(self, *figures):
        pass
    def compute(self):
        return torch.tensor(next(self.values) / 10)

class Task(TextClassification):
    monitor = "falling"
    def metrics(self):
        return super().metrics() | {"falling": Falling()}
"""


def test_no_checkpoint_from_before_the_end_of_the_compression_is_the_best(
    base: dict[str, Any], distill: Distill, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    Path("falling.py").write_text(SCRIPTED)
    base["model"] |= {"task": {"class_path": "falling.Task"}, "losses": ["CrossEntropy"]}
    base["model"]["student"]["path"] = base["model"].pop("teacher")["path"]
    base["trainer"] |= {"max_steps": 8, "val_check_interval": 2, "num_sanity_val_steps": 0}
    prune, quantize = copy.deepcopy([PRUNE, QUANTIZE])
    prune["init_args"] |= {"end": 5}
    quantize["init_args"] |= {"observe": 1, "begin": 3, "freeze_observers": 7, "float_validation": False}
    Path("base.yaml").write_text(yaml.safe_dump(base | {"callbacks": [prune, quantize]}))
    code, _, err = distill("fit", "-c", "base.yaml", "--allow", "falling", "--id", "one")
    sys.modules.pop("falling")
    assert code == 0, err
    folder = Path("runs/base/one")
    assert json.loads((folder / "result.json").read_text())["saved_step"] == 6
    assert [path.name for path in (folder / "checkpoints").glob("step=*")] == ["step=6.ckpt"]
    count, total = zeros(load_file(folder / "student/model.safetensors"), ENCODER)
    assert count == round(0.8 * total)


def test_a_checkpoint_of_the_users_own_ships_no_student_that_is_half_pruned(
    tmp_path: Path, recipe: dict[str, Any]
) -> None:
    # The lowest step scores best: the earlier, the better.
    own = {"class_path": "ModelCheckpoint", "init_args": {"monitor": "step", "mode": "min"}}
    found = train(tmp_path, recipe, [PRUNE, own])
    assert found.run.result["saved_step"] >= 10
    assert found.run.result["complete"] is True
    count, total = zeros(load_file(found.run.student / "model.safetensors"), ENCODER)
    assert count == round(0.8 * total)
    names = {path.name for path in found.run.checkpoints.iterdir()}
    assert any(name.startswith("epoch=") for name in names)
    assert f"step={found.run.result['saved_step']}.ckpt" in names


def test_a_run_that_ends_before_its_compression_says_so(
    tmp_path: Path, recipe: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    stop = {
        "class_path": "EarlyStopping",
        "init_args": {"monitor": "val/accuracy", "stopping_threshold": 0.0, "mode": "max"},
    }
    found = train(tmp_path, recipe, [PRUNE, stop])
    assert found.run.result["steps"] == 5
    assert found.run.result["complete"] is False
    [line] = [record.getMessage() for record in caplog.records if record.name == "distill.launch"]
    assert "step 5 of 20, before GradualMagnitudePruning" in line


def test_the_figures_are_those_of_the_step_that_is_shipped(
    base: dict[str, Any], distill: Distill, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Validated in the second of three epochs only, and no checkpoint is kept to go back to.
    monkeypatch.setattr(sys, "path", list(sys.path))
    Path("falling.py").write_text(SCRIPTED)
    base["model"] |= {"task": {"class_path": "falling.Task"}, "losses": ["CrossEntropy"]}
    base["model"]["student"]["path"] = base["model"].pop("teacher")["path"]
    base["data"]["batch_size"] = 50
    base["trainer"] |= {"max_steps": -1, "max_epochs": 3, "check_val_every_n_epoch": 2}
    base["trainer"] |= {"num_sanity_val_steps": 0, "enable_checkpointing": False}
    Path("base.yaml").write_text(yaml.safe_dump(base))
    code, out, err = distill("fit", "-c", "base.yaml", "--allow", "falling", "--id", "one")
    sys.modules.pop("falling")
    assert code == 0, err
    assert "step 6: " in out
    result = json.loads(Path("runs/base/one/result.json").read_text())
    assert result["saved_step"] == 9
    assert result["scores"]["student"]["falling"] == pytest.approx(0.8)  # that of step 6 is 0.9


def test_shipped_weights_are_the_average_and_zero_where_they_are_pruned(tmp_path: Path, recipe: dict[str, Any]) -> None:
    average = {"class_path": "ExponentialMovingAverage", "init_args": {"decay": 0.9}}
    found = train(tmp_path, recipe, [PRUNE, average])
    state = load_file(found.run.student / "model.safetensors")
    count, total = zeros(state, ENCODER)
    assert count == round(0.8 * total)
    step = found.run.result["saved_step"]
    [path] = found.run.checkpoints.glob(f"step={step}.ckpt")
    saved = torch.load(path, weights_only=True)
    [averages] = [value for key, value in saved["callbacks"].items() if key.startswith("ExponentialMovingAverage")]
    masks = saved["state_dict"]
    for name, value in averages.items():
        mask = masks.get(f"student.{name}_mask", torch.ones(()))
        torch.testing.assert_close(state[name], value * mask, rtol=0, atol=0)
    raw = saved["state_dict"]["student.classifier.weight"]
    assert not torch.equal(state["classifier.weight"], raw)


def test_weights_stored_as_integers_take_less_room_and_load_to_the_bit(
    joint: Fitted, tmp_path: Path, recipe: dict[str, Any]
) -> None:
    quantize = copy.deepcopy(QUANTIZE)
    quantize["init_args"]["store"] = "integers"
    found = train(tmp_path, recipe, [PRUNE, quantize])
    small, large = (run.student / "model.safetensors" for run in (found.run, joint.run))
    assert small.stat().st_size < 0.55 * large.stat().st_size
    loaded = package.load(found.run.student)
    assert torch.equal(found.logits(loaded), found.logits())
    assert torch.equal(found.logits(loaded), joint.logits())  # the same run but for how it is kept
    assert evaluate(found.run.folder)["val/accuracy"] == found.run.result["scores"]["student"]["accuracy"]


# ---------------------------------------------------------------------- other tasks


def test_a_causal_language_model_is_distilled_pruned_and_quantised(tmp_path: Path, recipe: dict[str, Any]) -> None:
    llama = {
        "model_type": "llama",
        "vocab_size": 2048,
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": 24,
        "max_position_embeddings": 64,
        "tie_word_embeddings": True,
        "bos_token_id": 0,
        "eos_token_id": 0,
    }
    teacher = tmp_path / "teacher"
    tokenizer = _tokenizer()
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    wide = AutoConfig.for_model(**(llama | {"hidden_size": 32}))
    AutoModelForCausalLM.from_config(wide).save_pretrained(teacher)
    tokenizer.save_pretrained(teacher)
    model = {"task": "causal-lm", "teacher": str(teacher), "student": {"config": llama}, "losses": ["HintonKL"]}
    data = {"pack_length": 32, "columns": {"text": "sentence"}}
    found = train(tmp_path, recipe, [PRUNE, QUANTIZE], model=model, data=data)
    state = load_file(found.run.student / "model.safetensors")
    pruned = [name for name in state if "proj" in name and name.endswith("weight")]
    count, total = zeros(state, pruned)
    assert len(pruned) == 2 * 7
    assert count == round(0.8 * total)
    assert torch.equal(found.logits(package.load(found.run.student)), found.logits())


def _tokenizer() -> Any:
    from transformers import AutoTokenizer

    from distill.paths import resolve

    return AutoTokenizer.from_pretrained(resolve("distill:quickstart/tokenizer", "tokenizer"))


def test_a_plain_pair_of_convolutions_is_compressed_in_python(tmp_path: Path) -> None:
    from pytorch_lightning import Trainer
    from torch.utils.data import DataLoader

    from distill.callbacks import GradualMagnitudePruning, QuantizationAwareTraining
    from distill.losses import CrossEntropy, HintonKL
    from distill.module import Distillation
    from distill.optim import OptimizerConfig
    from distill.tasks import Plain

    def net(width: int) -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(1, width, 3),
            nn.ReLU(),
            nn.Conv2d(width, width, 3),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(4 * width, 3),
        )

    torch.manual_seed(0)
    images = torch.randn(32, 1, 6, 6)
    loader = DataLoader(list(zip(images, images.flatten(1).argmax(1) % 3, strict=True)), batch_size=8)
    student = net(8)
    module = Distillation(student, Plain(), net(16), [HintonKL(), CrossEntropy()], OptimizerConfig(lr=0.01, warmup=0))
    callbacks = [
        GradualMagnitudePruning(0.75, end=6, every_n_steps=1),
        QuantizationAwareTraining(begin=6, observe=2, freeze_observers=10),
    ]
    trainer = Trainer(
        max_steps=12,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
        callbacks=callbacks,  # type: ignore[arg-type]
    )
    trainer.fit(module, loader)
    for callback in callbacks:
        package.artifact.note(student, *callback.finish(student))
    convolutions = torch.cat([student.get_parameter(name).flatten() for name in ("0.weight", "2.weight")])
    assert int((convolutions == 0).sum()) == round(0.75 * convolutions.numel())
    package.artifact.save(tmp_path / "student", student)
    reloaded = package.load(tmp_path / "student", net(8))
    with torch.no_grad():
        assert torch.equal(reloaded(images), student.eval()(images))


# ---------------------------------------------------------------------- what follows a run


@pytest.mark.parametrize(
    ("options", "bits", "inputs"),
    [
        ([], 8, "static"),
        (["--activations", "dynamic"], 8, "dynamic"),
        (["--bits", "4", "--group", "16", "--activations", "none"], 4, None),
    ],
    ids=["static", "dynamic", "int4"],
)
def test_a_run_is_quantised_without_training_into_a_run_of_its_own(
    options: list[str], bits: int, inputs: str | None, plain: Fitted, distill: Distill
) -> None:
    new = f"{bits}-{inputs}"
    code, out, err = distill("quantize", str(plain.run.folder), "--calibrate", "32", "--id", new, *options)
    assert code == 0, err
    folder = plain.run.folder.parents[1] / f"{plain.run.name}-quantized" / new
    assert str(folder / "student") in out
    *_, step = json.loads((folder / "student/compression.json").read_text())["steps"]
    name = "bert.encoder.layer.0.attention.self.query"
    query = step["modules"][name]
    assert query["weights"]["bits"] == bits
    assert (query["activations"] or {}).get("kind") == inputs
    weight = load_file(folder / "student/model.safetensors")[f"{name}.weight"]
    rows = weight.reshape(-1, 16 if bits == 4 else weight.shape[1])
    assert max(len(row.unique()) for row in rows) <= 2**bits
    assert not torch.equal(
        weight, plain.module.student.state_dict()["bert.encoder.layer.0.attention.self.query.weight"]
    )
    scores = Run.open(folder).result["scores"]["student"]
    assert evaluate(folder)["val/accuracy"] == scores["accuracy"]


def test_the_quantised_run_lies_beside_its_source_and_says_how_it_was_made(
    plain: Fitted, tmp_path: Path, recipe: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "elsewhere" / "copied" / "one"
    shutil.copytree(plain.run.folder, source)
    text = (source / "config.yaml").read_text()
    (source / "config.yaml").write_text(re.sub(r"(?m)^runs: .*", "runs: runs", text))
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    made = quantize(source, calibrate=8, run_id="new")
    assert made.folder == source.parents[1] / "copied-quantized" / "new"
    assert not list(Path().iterdir())
    first = made.config_file.read_text().splitlines()[0]
    assert first == f"# Made by: distill quantize {source}"

    def fail(*_: Any) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr("distill.artifact.save", fail)
    with pytest.raises(OSError, match="no space left"):
        quantize(source, calibrate=8, run_id="failed")
    assert [path.name for path in made.folder.parent.iterdir()] == ["new"]


@pytest.mark.parametrize(("samples", "batches"), [(8, 1), (9, 2), (24, 3)])
def test_as_many_batches_are_calibrated_with_as_hold_the_samples(
    samples: int, batches: int, plain: Fitted, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Seen(Exception):
        pass

    def look(student: nn.Module, given: list[Any], *_: Any, **__: Any) -> None:
        assert [batch.size for batch in given] == [8] * batches
        raise Seen

    monkeypatch.setattr("distill.quantize.ptq.quantize", look)
    with pytest.raises(Seen):
        quantize(plain.run.folder, calibrate=samples, run_id="seen")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--bits", "5"], "--bits = 5: must be one of"),
        (["--bits", "4", "--reduced-range"], "--reduced-range = True: is for symmetric weights of 8 bits"),
        (["--group", "1"], "--group = 1: must be at least 2"),
    ],
)
def test_a_mistake_in_an_option_names_the_option(options: list[str], said: str, distill: Distill) -> None:
    code, _, err = distill("quantize", "any", *options)
    assert code == 2
    assert said in err


def test_groups_that_do_not_divide_a_layer_are_refused(plain: Fitted, distill: Distill) -> None:
    code, _, err = distill("quantize", str(plain.run.folder), "--bits", "4", "--group", "24", "--id", "odd")
    assert code == 2
    assert "--group = 24: must divide the 32 inputs of bert.encoder.layer.0" in err
    assert not list(plain.run.folder.parents[1].glob("*/odd"))


def test_a_student_is_not_quantised_twice(joint: Fitted, distill: Distill) -> None:
    code, _, err = distill("quantize", str(joint.run.folder))
    assert code == 2
    assert "quantised already" in err
    assert not list(joint.run.folder.parents[1].glob("*-quantized"))


def test_sensitivity_writes_overrides_that_a_run_can_be_trained_with(
    plain: Fitted, distill: Distill, base: dict[str, Any]
) -> None:
    code, _, err = distill("sensitivity", str(plain.run.folder), "--samples", "32", "--output", "scan")
    assert code == 0, err
    assert {path.name for path in Path("scan").iterdir()} == {"points.csv", "sensitivity.png", "overrides.yaml"}
    argv = ["-c", "base.yaml", "-c", "scan/overrides.yaml", "--trainer.max_steps", "10", "--id", "one"]
    code, _, err = distill("fit", *argv)
    assert code == 0, err
    count, total = zeros(load_file("runs/base/one/student/model.safetensors"), ENCODER)
    assert count >= 0.8 * total * 0.999


@pytest.fixture(scope="module")
def shrunken(tmp_path_factory: pytest.TempPathFactory, recipe: dict[str, Any]) -> Fitted:
    """With half of the heads and the neurons, and three quarters of the width."""
    structured = {
        "class_path": "StructuredPruning",
        "init_args": {"heads": 0.5, "neurons": 0.5, "hidden": 0.25, "end": 0.5, "every_n_steps": 2},
    }
    return train(tmp_path_factory.mktemp("shrunken"), recipe, [structured])


def test_a_shrunken_student_is_scored_and_loads_to_the_bit(shrunken: Fitted) -> None:
    state = load_file(shrunken.run.student / "model.safetensors")
    assert state["bert.encoder.layer.1.attention.self.query.weight"].shape == (16, 24)
    assert state["bert.encoder.layer.1.intermediate.dense.weight"].shape == (16, 24)
    assert evaluate(shrunken.run.folder)["val/accuracy"] == shrunken.run.result["scores"]["student"]["accuracy"]
    assert torch.equal(shrunken.logits(package.load(shrunken.run.student)), shrunken.logits())


@pytest.mark.parametrize("loss", ["FitNetHint", "RelationTransfer"])
def test_a_shrunken_student_is_distilled_further_with_losses_over_its_widths(
    loss: str, shrunken: Fitted, tmp_path: Path, recipe: dict[str, Any]
) -> None:
    args = {"FitNetHint": {"layers": {"1": 2, "2": 4}}, "RelationTransfer": {"version": 2}}[loss]
    model = {
        "student": {"path": str(shrunken.run.folder)},
        "losses": ["HintonKL", {"class_path": loss, "init_args": args}],
    }
    found = train(tmp_path, recipe, [], model=model, trainer={"max_steps": 4, "val_check_interval": 4})
    student = package.load(found.run.student)
    assert student.get_parameter("bert.encoder.layer.1.attention.self.query.weight").shape == (16, 24)
    assert torch.equal(found.logits(student), found.logits())


def test_heads_that_are_gone_do_not_match_those_of_a_teacher(
    shrunken: Fitted, tmp_path: Path, recipe: dict[str, Any]
) -> None:
    relation = {"class_path": "RelationTransfer", "init_args": {"version": 1}}
    with pytest.raises(UserError, match=r"num_attention_heads = 1: version 1 needs the teacher's number of heads, 2"):
        train(tmp_path, recipe, [], model={"student": {"path": str(shrunken.run.folder)}, "losses": [relation]})


@pytest.mark.parametrize("layers", ["{}", "{layers: null, num_layers: null}"], ids=["some layers", "whole"])
def test_a_quantised_student_is_no_start_of_a_training(
    layers: str, joint: Fitted, base: dict[str, Any], distill: Distill
) -> None:
    argv = ["--model.student", layers, "--model.student.path", str(joint.run.folder)]
    code, _, err = distill("fit", "-c", "base.yaml", *argv)
    assert code == 2
    assert f"model.student.path = '{joint.run.folder}': weights that are quantised already" in err
    assert "made without quantisation" in err
    assert not Path("runs").exists()


@pytest.mark.parametrize(("to", "file"), [("hf", "model.safetensors"), ("onnx-int8", "model.onnx")])
def test_a_run_is_exported(to: str, file: str, joint: Fitted, distill: Distill, tmp_path: Path) -> None:
    if to != "hf":
        pytest.importorskip("onnxruntime")
    code, _, err = distill("export", str(joint.run.folder), "--to", to, "--output", str(tmp_path / to))
    assert code == 0, err
    assert (tmp_path / to / file).is_file()
    assert (tmp_path / to / "export.json").is_file()


def test_two_processes_end_with_one_student(tmp_path: Path, recipe: dict[str, Any]) -> None:
    config = copy.deepcopy(recipe) | {"runs": str(tmp_path / "runs"), "callbacks": [PRUNE, QUANTIZE]}
    config["trainer"] |= {"max_steps": 8, "val_check_interval": 4, "devices": 2, "strategy": "ddp"}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(config))
    script = Path(__file__).with_name("ranks.py")
    command = [sys.executable, str(script), str(tmp_path / "recipe.yaml"), str(tmp_path)]
    done = subprocess.run(
        command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    first, second = (torch.load(tmp_path / f"trained.{rank}", weights_only=True) for rank in (0, 1))
    assert sum(name.endswith("weight_mask") for name in first) == len(ENCODER)
    for name, value in first.items():
        torch.testing.assert_close(second[name], value, rtol=0, atol=0, msg=name)
    main, other = (torch.load(tmp_path / f"finished.{rank}", weights_only=True) for rank in (0, 1))
    folder = tmp_path / "runs/recipe/one"
    assert (main["saved"], other["saved"]) == ([str(folder / "student")], [])
    state = load_file(folder / "student/model.safetensors")
    count, total = zeros(state, ENCODER)
    assert count == round(0.8 * total)
    for name, value in state.items():
        assert torch.equal(main["student"][name], value)
        assert torch.equal(other["student"][name], value)
    assert [path.name for path in folder.parent.iterdir()] == ["one"]
    assert done.stdout.count("student of step 8") == 1
    assert json.loads((folder / "result.json").read_text())["saved_step"] == 8
