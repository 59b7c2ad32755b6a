"""What `distill quantize` promises."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file
from torch import nn

from distill.compression.quantization.scheme import ActivationScheme
from distill.run.folder import Run
from distill.workflows.evaluate import evaluate
from distill.workflows.quantize import quantize

Distill = Callable[..., Any]


@pytest.mark.parametrize(
    ("options", "bits", "inputs"),
    [
        (["--calibrate", "32"], 8, "static"),
        (["--activations", "dynamic"], 8, "dynamic"),
        (["--bits", "4", "--group", "16", "--activations", "none"], 4, None),
        (["--format", "nf4", "--activations", "dynamic"], 4, "dynamic"),
        (["--bits", "3", "--start", "gptq", "--act-order", "--activations", "none", "--calibrate", "16"], 3, None),
    ],
    ids=["static", "dynamic", "int4", "nf4", "gptq"],
)
def test_a_run_is_quantized_without_training_into_a_run_of_its_own(
    options: list[str], bits: int, inputs: str | None, plain: Any, distill: Distill
) -> None:
    new = f"{bits}-{inputs}"
    code, out, err = distill("quantize", str(plain.run.folder), "--id", new, *options)
    assert code == 0, err
    folder = plain.run.folder.parents[1] / f"{plain.run.name}-quantized" / new
    assert str(folder / "student") in out
    *_, step = json.loads((folder / "student/compression.json").read_text())["steps"]
    name = "bert.encoder.layer.0.attention.self.query"
    query = step["modules"][name]
    assert query["weights"]["bits"] == bits
    assert (query["activations"] or {}).get("kind") == inputs
    weight = load_file(folder / "student/model.safetensors")[f"{name}.weight"]
    rows = weight.reshape(-1, 16 if "--group" in options else weight.shape[1])
    assert max(len(row.unique()) for row in rows) <= 2**bits
    assert not torch.equal(
        weight, plain.module.student.state_dict()["bert.encoder.layer.0.attention.self.query.weight"]
    )
    scores = Run.open(folder).result["scores"]["student"]
    assert evaluate(folder)["val/accuracy"] == scores["accuracy"]


def test_what_two_quantized_runs_differ_in_is_shown(plain: Any, tmp_path: Path, distill: Distill) -> None:
    options = ["--calibrate", "8", "--runs", str(tmp_path)]
    for bits in ("8", "4"):
        code, _, err = distill("quantize", str(plain.run.folder), *options, "--bits", bits, "--id", f"int{bits}")
        assert code == 0, err
    eight, four = (str(tmp_path / f"{plain.run.name}-quantized/int{bits}") for bits in (8, 4))
    _, out, _ = distill("runs", "--compare", str(plain.run.folder), eight)
    assert re.search(r"quantize +- +.*calibrate", out)
    _, out, _ = distill("runs", "--compare", eight, four)
    [line] = [line for line in out.splitlines() if "quantize." in line]
    assert re.fullmatch(r" *quantize\.weights\.bits +8 +4 *", line)


def test_the_quantized_run_lies_beside_its_source_and_says_how_it_was_made(
    plain: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
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
    assert first == f"# distill 0.2; made by: distill quantize {source}"

    def fail(*_: object, **__: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr("distill.models.saved_student.save", fail)
    with pytest.raises(OSError, match="no space left"):
        quantize(source, calibrate=8, run_id="failed")
    assert [path.name for path in made.folder.parent.iterdir()] == ["new"]


def test_a_run_of_several_processes_is_quantized_by_one(plain: Any, tmp_path: Path, distill: Distill) -> None:
    source = Path(shutil.copytree(plain.run.folder, tmp_path / "runs/several/one"))
    config = yaml.safe_load((source / "config.yaml").read_text())
    config["trainer"] |= {"devices": 2, "strategy": "ddp", "num_nodes": 1}
    (source / "config.yaml").write_text(yaml.safe_dump(config))
    code, _, err = distill("quantize", str(source), "--calibrate", "8")
    assert code == 0, err
    [made] = (tmp_path / "runs/several-quantized").iterdir()
    assert (made / "student/model.safetensors").is_file()
    code, _, err = distill("quantize", str(source), "--trainer.devices", "2")
    assert code == 2
    assert "trainer.devices = 2: this is done by one process" in err


@pytest.mark.parametrize(("samples", "batches"), [(8, 1), (9, 2), (24, 3)])
def test_as_many_batches_are_calibrated_with_as_hold_the_samples(
    samples: int, batches: int, plain: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Seen(Exception):
        pass

    def look(student: nn.Module, given: list[Any], *_: Any, **__: Any) -> None:
        assert [batch.size for batch in given] == [8] * batches
        raise Seen

    monkeypatch.setattr("distill.compression.quantization.ptq.quantize", look)
    with pytest.raises(Seen):
        quantize(plain.run.folder, calibrate=samples, activations=ActivationScheme(), run_id="seen")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--bits", "9"], "--bits = 9: must be one of"),
        (["--bits", "4", "--reduced-range"], "--reduced-range: is for symmetric weights of 8 bits"),
        (["--group", "1"], "--group = 1: must be at least 2"),
        (["--format", "nf4", "--bits", "3"], "--bits = 3: nf4 has 4 bits"),
        (["--format", "nf3"], "--format = 'nf3': must be one of int, nf4"),
        (["--start", "gtpq"], "--start = 'gtpq': must be one of rtn, mse, gptq"),
        (["--alpha", "0"], "--alpha = 0.0: has no effect with method: rtn. leave it out, or take smoothquant"),
        (["--start", "gptq", "--damping", "0"], "--damping = 0.0: must be greater than 0"),
        (["--start", "mse", "--activations", "none", "--calibrate", "8"], "--calibrate = 8: has no effect with"),
    ],
)
def test_a_mistake_in_an_option_names_the_option(options: list[str], said: str, distill: Distill) -> None:
    code, _, err = distill("quantize", "any", *options)
    assert code == 2
    assert said in err


def test_groups_that_do_not_divide_a_layer_are_refused(plain: Any, distill: Distill) -> None:
    code, _, err = distill("quantize", str(plain.run.folder), "--bits", "4", "--group", "24", "--id", "odd")
    assert code == 2
    assert "--group = 24: must divide the 32 inputs of bert.encoder.layer.0" in err
    assert not list(plain.run.folder.parents[1].glob("*/odd"))


def test_a_student_is_not_quantized_twice(joint: Any, distill: Distill) -> None:
    code, _, err = distill("quantize", str(joint.run.folder))
    assert code == 2
    assert "quantized already" in err
    assert not list(joint.run.folder.parents[1].glob("*-quantized"))


@pytest.mark.slow
def test_a_kill_leaves_no_run_and_what_is_half_is_not_resumed(
    plain: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, distill: Distill
) -> None:
    source = Path(shutil.copytree(plain.run.folder, tmp_path / "runs/mine/one"))
    place = tmp_path / "runs/mine-quantized"

    class Killed(BaseException):
        """Neither handled nor cleaned up after, as a process that is gone cleans up nothing."""

    def kill(*_: Any, **__: Any) -> None:
        raise Killed

    for name in (
        "distill.run.folder._write_text",
        "distill.models.saved_student.save",
        "distill.core.utils.replacing._swap",
    ):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(name, kill)
            patch.setattr(shutil, "rmtree", lambda *_, **__: None)
            with pytest.raises(Killed):
                quantize(source, calibrate=8, run_id="new")
        assert [path.name for path in place.iterdir() if not path.name.startswith(".")] == []
        assert "mine-quantized" not in distill("runs", str(tmp_path / "runs")).out
    assert any(place.glob(".new.*.new"))
    made = quantize(source, calibrate=8, run_id="other")
    assert [path.name for path in place.iterdir()] == ["other"]
    made.result_file.unlink()  # as a kill left it when its files were written one after the other
    for argv in (["resume", str(made.folder)], ["resume", str(made.folder), "--max-steps", "9"]):
        code, _, err = distill(*argv)
        assert code == 2
        assert f"give that command again: distill quantize {source}" in err
    assert not made.checkpoints.exists()
