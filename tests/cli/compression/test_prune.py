"""What `distill prune` promises."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.utils.data import DataLoader

import distill as package
from distill.core.record import steps_of
from distill.core.utils.errors import UserError
from distill.run.folder import Run
from distill.workflows.evaluate import evaluate

Distill = Callable[..., Any]
NAME = "bert.encoder.layer.0.attention.self.query"


@pytest.mark.parametrize(
    ("options", "criterion", "granularity"),
    [
        (["--calibrate", "16", "--damping", "0.1"], "sparsegpt", "unstructured"),
        (["--method", "wanda", "--granularity", "2:4", "--calibrate", "16"], "wanda", "2:4"),
        (["--method", "magnitude", "--sparsity", "0.5"], "magnitude", "unstructured"),
    ],
)
def test_a_run_is_pruned_without_training_into_a_run_of_its_own(
    options: list[str], criterion: str, granularity: str, plain: Any, distill: Distill
) -> None:
    code, out, err = distill("prune", str(plain.run.folder), "--id", criterion, *options)
    assert code == 0, err
    folder = plain.run.folder.parents[1] / f"{plain.run.name}-pruned" / criterion
    assert str(folder / "student") in out
    *_, step = json.loads((folder / "student/compression.json").read_text())["steps"]
    assert (step["kind"], step["criterion"], step["granularity"]) == ("sparsity", criterion, granularity)
    assert step["actual"] == 0.5
    weight = load_file(folder / "student/model.safetensors")[f"{NAME}.weight"]
    assert int((weight == 0).sum()) == weight.numel() // 2
    before = plain.module.student.state_dict()[f"{NAME}.weight"]
    kept = weight != 0
    assert torch.equal(weight[kept], before[kept]) == (criterion != "sparsegpt")
    scores = Run.open(folder).result["scores"]["student"]
    assert evaluate(folder)["val/accuracy"] == scores["accuracy"]


def test_training_goes_on_from_the_pruned_run_with_its_zeros(plain: Any, distill: Distill, tmp_path: Path) -> None:
    source, runs = str(plain.run.folder), str(tmp_path)
    code, _, err = distill("prune", source, "--method", "wanda", "--id", "start", "--calibrate", "8", "--runs", runs)
    assert code == 0, err
    start = tmp_path / f"{plain.run.name}-pruned/start"
    keep = "[{class_path: GradualMagnitudePruning, init_args: {final_sparsity: 0.5, schedule: one_shot, scope: layer}}]"
    options = ["--name", "recovered", "--id", "one", "--trainer.max_steps", "3", "--trainer.max_epochs", "1"]
    options += ["--callbacks", keep, "--model.student.path", str(start), "--model.student.layers", "null"]
    code, _, err = distill("fit", "-c", source, "--runs", runs, *options)
    assert code == 0, err
    first, last = (
        load_file(folder / "student/model.safetensors")[f"{NAME}.weight"]
        for folder in (start, tmp_path / "recovered/one")
    )
    assert torch.equal(first == 0, last == 0)
    assert not torch.equal(first, last)


def test_in_python_any_module_is_pruned(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4), nn.Linear(4, 3))
    rows = DataLoader([(torch.randn(6), torch.tensor(0)) for _ in range(32)], batch_size=8)  # type: ignore[arg-type]
    pruned: Any = package.prune(net, rows, sparsity=0.25, task="plain")
    assert pruned is net
    assert [int((layer.weight == 0).sum()) for layer in pruned if isinstance(layer, nn.Linear)] == [12, 8, 0]
    (step,) = steps_of(net)
    assert step["criterion"] == "sparsegpt"
    package.save(net, tmp_path / "net")
    with pytest.raises(UserError, match="sparsegpt looks at what layers read"):
        package.prune(net, task="plain")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--method", "magnitude", "--calibrate", "9"], "--calibrate = 9: has no effect with --method magnitude"),
        (["--method", "wanda", "--damping", "0.1"], "--damping = 0.1: has no effect with --method wanda"),
        (["--granularity", "2:4", "--sparsity", "0.6"], "--sparsity = 0.6: 2:4 is a sparsity of 0.5"),
        (["--granularity", "16x1"], "--granularity = '16x1': blocks are pruned in training"),
        (["--calibrate", "0"], "--calibrate = 0: must be at least 1"),
    ],
)
def test_what_has_no_effect_or_does_not_fit_is_refused(
    options: list[str], said: str, plain: Any, distill: Distill
) -> None:
    code, _, err = distill("prune", str(plain.run.folder), *options)
    assert (code, said in err) == (2, True), err
    assert not (plain.run.folder.parents[1] / f"{plain.run.name}-pruned" / "0").exists()
