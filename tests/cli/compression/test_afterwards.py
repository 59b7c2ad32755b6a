"""What can be done with a compressed student, and what cannot."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import distill as package
from distill.errors import UserError
from distill.finished import evaluate

Distill = Callable[..., Any]
Train = Callable[..., Any]
Zeros = Callable[..., tuple[int, int]]


def test_sensitivity_writes_overrides_that_a_run_can_be_trained_with(
    plain: Any, distill: Distill, base: dict[str, Any], encoder: list[str], zeros: Zeros
) -> None:
    code, _, err = distill("sensitivity", str(plain.run.folder), "--samples", "32", "--output", "scan")
    assert code == 0, err
    assert {path.name for path in Path("scan").iterdir()} == {"points.csv", "sensitivity.png", "overrides.yaml"}
    argv = ["-c", "base.yaml", "-c", "scan/overrides.yaml", "--trainer.max_steps", "10", "--id", "one"]
    code, _, err = distill("fit", *argv)
    assert code == 0, err
    count, total = zeros(load_file("runs/base/one/student/model.safetensors"), encoder)
    assert count >= 0.8 * total * 0.999


@pytest.fixture(scope="module")
def shrunken(tmp_path_factory: pytest.TempPathFactory, train: Train) -> Any:
    """With half of the heads and the neurons, and three quarters of the width."""
    structured = {
        "class_path": "StructuredPruning",
        "init_args": {"heads": 0.5, "neurons": 0.5, "hidden": 0.25, "end": 0.5, "every_n_steps": 2},
    }
    return train(tmp_path_factory.mktemp("shrunken"), [structured])


def test_a_shrunken_student_is_scored_and_loads_to_the_bit(shrunken: Any) -> None:
    state = load_file(shrunken.run.student / "model.safetensors")
    assert state["bert.encoder.layer.1.attention.self.query.weight"].shape == (16, 24)
    assert state["bert.encoder.layer.1.intermediate.dense.weight"].shape == (16, 24)
    assert evaluate(shrunken.run.folder)["val/accuracy"] == shrunken.run.result["scores"]["student"]["accuracy"]
    assert torch.equal(shrunken.logits(package.load(shrunken.run.student)), shrunken.logits())


@pytest.mark.parametrize("loss", ["FitNetHint", "RelationTransfer"])
def test_a_shrunken_student_is_distilled_further_with_losses_over_its_widths(
    loss: str, shrunken: Any, tmp_path: Path, train: Train
) -> None:
    args = {"FitNetHint": {"layers": {"1": 2, "2": 4}}, "RelationTransfer": {"version": 2}}[loss]
    model = {
        "student": {"path": str(shrunken.run.folder)},
        "losses": ["HintonKL", {"class_path": loss, "init_args": args}],
    }
    found = train(tmp_path, [], model=model, trainer={"max_steps": 4, "val_check_interval": 4})
    student = package.load(found.run.student)
    assert student.get_parameter("bert.encoder.layer.1.attention.self.query.weight").shape == (16, 24)
    assert torch.equal(found.logits(student), found.logits())


def test_heads_that_are_gone_do_not_match_those_of_a_teacher(shrunken: Any, tmp_path: Path, train: Train) -> None:
    relation = {"class_path": "RelationTransfer", "init_args": {"version": 1}}
    with pytest.raises(UserError, match=r"num_attention_heads = 1: version 1 needs the teacher's number of heads, 2"):
        train(tmp_path, [], model={"student": {"path": str(shrunken.run.folder)}, "losses": [relation]})


@pytest.mark.parametrize("layers", ["{}", "{layers: null, num_layers: null}"], ids=["some layers", "whole"])
def test_a_quantised_student_is_no_start_of_a_training(
    layers: str, joint: Any, base: dict[str, Any], distill: Distill
) -> None:
    argv = ["--model.student", layers, "--model.student.path", str(joint.run.folder)]
    code, _, err = distill("fit", "-c", "base.yaml", *argv)
    assert code == 2
    assert f"model.student.path = '{joint.run.folder}': weights that are quantised already" in err
    assert "made without quantisation" in err
    assert not Path("runs").exists()


@pytest.mark.parametrize(("to", "file"), [("hf", "model.safetensors"), ("onnx-int8", "model.onnx")])
def test_a_run_is_exported(to: str, file: str, joint: Any, distill: Distill, tmp_path: Path) -> None:
    if to != "hf":
        pytest.importorskip("onnxruntime")
    code, _, err = distill("export", str(joint.run.folder), "--to", to, "--output", str(tmp_path / to))
    assert code == 0, err
    assert (tmp_path / to / file).is_file()
    assert (tmp_path / to / "export.json").is_file()
