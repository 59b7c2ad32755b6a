"""What can be done with a compressed student, and what cannot."""

from __future__ import annotations

import contextlib
import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

import distill as package
from distill.cli.main import main
from distill.core.utils.errors import UserError
from distill.workflows.evaluate import evaluate

Distill = Callable[..., Any]
Train = Callable[..., Any]


@pytest.fixture(scope="module")
def scanned(plain: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """What a scan wrote, and the lines that it printed."""
    folder, printed = tmp_path_factory.mktemp("scan"), io.StringIO()
    with contextlib.redirect_stdout(printed):
        assert main(["sensitivity", str(plain.run.folder), "--samples", "32", "--output", str(folder)]) == 0
    return folder, printed.getvalue().splitlines()


def test_sensitivity_shows_divergence_and_metric_of_every_layer(
    scanned: tuple[Path, list[str]], encoder: list[str]
) -> None:
    folder, lines = scanned
    assert {path.name for path in folder.iterdir()} == {"points.csv", "sensitivity.png", "overrides.yaml"}
    with (folder / "points.csv").open() as file:
        points = list(csv.DictReader(file))
    assert max(map(len, lines)) <= 160
    tries = [*(["25%", "50%", "70%", "80%", "90%", "95%"]), *"86432"]
    heads = [line.split() for line in lines if line.split()[:6] == tries[:6]]
    assert heads == [tries, tries]
    rows = [line.split() for line in lines]
    columns = [row[:-11] for row in rows if row[-11:] == ["pruned"] * 6 + ["bits"] * 5]
    assert columns == [["divergence,", "nats"], ["accuracy"]]
    for weight in encoder:
        layer = weight.removesuffix(".weight")
        tried = [point for point in points if point["layer"] == layer]
        divergence, metric = (row[1:] for row in rows if row[:1] == [layer])
        assert divergence == [f"{float(point['divergence']):.2g}" for point in tried]
        assert metric == [f"{float(point['metric']):.4g}" for point in tried]


@pytest.mark.slow
def test_overrides_of_a_scan_bring_a_run_to_both_targets(
    scanned: tuple[Path, list[str]], base: dict[str, Any], distill: Distill, encoder: list[str]
) -> None:
    written = scanned[0] / "overrides.yaml"
    assert "replaces RECIPE's callbacks" in written.read_text()
    code, _, err = distill("fit", "-c", "base.yaml", "-c", str(written), "--trainer.max_steps", "10", "--id", "one")
    assert code == 0, err
    steps = json.loads(Path("runs/base/one/student/compression.json").read_text())["steps"]
    pruned, quantized = ({step["kind"]: step for step in steps}[kind] for kind in ("sparsity", "quantize"))
    state = load_file("runs/base/one/student/model.safetensors")
    sizes = {name.removesuffix(".weight"): state[name].numel() for name in encoder}
    assert {name: layer["weights"] for name, layer in pruned["layers"].items()} == sizes
    total = sum(sizes.values())
    assert sum(layer["zeros"] for layer in pruned["layers"].values()) >= 0.8 * total * 0.999
    bits = {name: quantized["modules"][name]["weights"]["bits"] for name in sizes}
    assert sum(bits[name] * size for name, size in sizes.items()) <= 6 * total
    assert len(set(bits.values())) > 1


NETS = """
import torch
from pytorch_lightning import LightningDataModule
from torch.utils.data import DataLoader

class Data(LightningDataModule):
    def train_dataloader(self):
        x = torch.randn(16, 4, generator=torch.Generator().manual_seed(0))
        return DataLoader(list(zip(x, x.argmax(1))), batch_size=8)
    val_dataloader = train_dataloader

class Net(torch.nn.Sequential):
    def __init__(self, depth: int = 2):
        layers = [torch.nn.Linear(4, 4) for _ in range(depth)]
        super().__init__(*layers, torch.nn.ReLU(), torch.nn.Linear(4, 4))
"""


@pytest.mark.parametrize(("depth", "rounded"), [(2, [r"^1$"]), (1, None)])
def test_overrides_are_of_layers_that_training_takes(
    depth: int, rounded: list[str] | None, distill: Distill, own_module: Callable[[str, str], None]
) -> None:
    # The first layer of a net that reads numbers is pruned and scanned, but not quantized.
    own_module("own_nets", NETS)
    student = {"class_path": "own_nets.Net", "init_args": {"depth": depth}}
    config = {
        "model": {"task": "plain", "student": student, "losses": ["CrossEntropy"]},
        "data": {"class_path": "own_nets.Data"},
        "trainer": {"max_steps": 10, "accelerator": "cpu"},
        "logging": {"tensorboard": False},
    }
    Path("own.yaml").write_text(yaml.safe_dump(config))
    for argv in (
        ["fit", "-c", "own.yaml", "--id", "one"],
        ["sensitivity", "runs/own/one", "--sparsity", "0.5"],
        ["fit", "-c", "own.yaml", "-c", "runs/own/one/sensitivity/overrides.yaml", "--id", "two"],
    ):
        code, _, err = distill(*argv, "--allow", "own_nets")
        assert code == 0, err
    pruning, *others = yaml.safe_load(Path("runs/own/one/sensitivity/overrides.yaml").read_text())["callbacks"]
    assert list(pruning["init_args"]["overrides"]) == [f"^{layer}$" for layer in range(depth)]
    assert [list(other["init_args"]["overrides"]) for other in others] == ([rounded] if rounded else [])


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
def test_a_quantized_student_is_no_start_of_a_training(
    layers: str, joint: Any, base: dict[str, Any], distill: Distill
) -> None:
    argv = ["--model.student", layers, "--model.student.path", str(joint.run.folder)]
    code, _, err = distill("fit", "-c", "base.yaml", *argv)
    assert code == 2
    assert f"model.student.path = '{joint.run.folder}': weights that are quantized already" in err
    assert "made without quantization" in err
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("to", "file"),
    [("hf", "model.safetensors"), ("onnx-int8", "model.onnx"), ("compressed-tensors", "model.safetensors")],
)
def test_a_run_is_exported(to: str, file: str, joint: Any, distill: Distill, tmp_path: Path) -> None:
    if to != "hf":
        pytest.importorskip("onnxruntime")
    code, _, err = distill("export", str(joint.run.folder), "--to", to, "--output", str(tmp_path / to))
    assert code == 0, err
    assert (tmp_path / to / file).is_file()
    assert (tmp_path / to / "export.json").is_file()
