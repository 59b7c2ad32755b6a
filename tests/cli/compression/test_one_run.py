"""What a run promises that distils, prunes and quantizes."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from rich.console import Console
from safetensors.torch import load_file

import distill as package
from distill.core.record import steps_of
from distill.workflows.evaluate import evaluate
from distill.workflows.result import show_result

Distill = Callable[..., Any]
Script = Callable[..., Any]
Train = Callable[..., Any]
Zeros = Callable[..., tuple[int, int]]


def test_the_saved_weights_have_exactly_the_zeros_that_were_asked_for(
    joint: Any, encoder: list[str], zeros: Zeros
) -> None:
    state = load_file(joint.run.student / "model.safetensors")
    count, total = zeros(state, encoder)
    assert count == round(0.8 * total)
    assert zeros(state, ["classifier.weight"])[0] == 0


def test_the_record_lists_the_steps_in_the_order_in_which_they_were_done(joint: Any, encoder: list[str]) -> None:
    steps = json.loads((joint.run.student / "compression.json").read_text())["steps"]
    assert [step["kind"] for step in steps] == ["layers", "sparsity", "quantize"]
    _, sparsity, quantize = steps
    assert [f"{name}.weight" for name in sparsity["layers"]] == encoder
    assert sparsity["actual"] == pytest.approx(0.8, abs=1e-4)
    embeddings = {f"bert.embeddings.{name}_embeddings" for name in ("word", "position", "token_type")}
    assert set(quantize["modules"]) == {name.removesuffix(".weight") for name in encoder} | embeddings


def test_the_score_of_the_run_is_that_of_the_saved_student(joint: Any) -> None:
    scores = joint.run.result["scores"]["student"]
    found = evaluate(joint.run.folder)
    assert {name: found[f"val/{name}"] for name in scores} == scores


def test_the_student_loads_with_the_logits_of_the_finished_one_to_the_bit(joint: Any) -> None:
    assert torch.equal(joint.logits(package.load(joint.run.student)), joint.logits())
    assert steps_of(joint.module.student) == steps_of(package.load(joint.run.folder))


def test_the_table_says_how_much_smaller_the_student_was_made(joint: Any, plain: Any) -> None:
    def table(run: Any) -> str:
        console = Console(width=200, record=True, file=StringIO())
        show_result(run.result, console)
        return console.export_text()

    assert "80 % zero, int8" in table(joint.run)
    assert "compressed" not in table(plain.run)


def test_nothing_of_training_is_left_in_the_saved_weights(joint: Any, encoder: list[str]) -> None:
    names = set(load_file(joint.run.student / "model.safetensors"))
    assert not [name for name in names if "mask" in name or "observer" in name]
    assert set(encoder) < names


def test_the_course_of_the_compression_is_drawn_and_logged(joint: Any) -> None:
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
    assert set(columns["val/float_accuracy"]) == {20}, "the last"
    assert set(columns["val/accuracy"]) == {5, 10, 15, 20}


def test_a_dry_run_shows_when_what_is_compressed(
    base: dict[str, Any], distill: Distill, pruning: dict[str, Any], quantization: dict[str, Any]
) -> None:
    Path("base.yaml").write_text(yaml.safe_dump(base | {"callbacks": [pruning, quantization]}))
    code, out, err = distill("fit", "-c", "base.yaml", "--dry-run", "--trainer.max_steps", "40")
    assert code == 0, err
    lines = {line.split("│")[1].strip(): line.split("│")[2:-1] for line in out.splitlines() if line.count("│") > 3}
    course = {name: [float(cell) for cell in cells] for name, cells in lines.items() if name != "steps done"}
    assert course["sparsity"][0] == 0.0
    assert course["sparsity"][-1] == 0.8
    assert course["fake_quant"] == [0, 0, 0, 0, 1, 1]
    assert not Path("runs").exists()


def test_weights_stored_as_integers_take_less_room_and_load_to_the_bit(
    joint: Any, tmp_path: Path, train: Train, pruning: dict[str, Any], quantization: dict[str, Any]
) -> None:
    quantization["init_args"]["store"] = "integers"
    found = train(tmp_path, [pruning, quantization])
    small, large = found.run.student / "integers.safetensors", joint.run.student / "model.safetensors"
    assert small.stat().st_size < 0.55 * large.stat().st_size
    loaded = package.load(found.run.student)
    assert torch.equal(found.logits(loaded), found.logits())
    assert torch.equal(found.logits(loaded), joint.logits())  # the same run but for how it is kept
    assert evaluate(found.run.folder)["val/accuracy"] == found.run.result["scores"]["student"]["accuracy"]


@pytest.mark.parametrize(
    "all_at_once",
    [pytest.param(False, marks=pytest.mark.slow), True],
    ids=["plain", "accumulated-clipped-bf16-averaged"],
)
def test_two_processes_end_with_one_student(
    all_at_once: bool,
    tmp_path: Path,
    script: Script,
    recipe: dict[str, Any],
    changed: Callable[..., dict[str, Any]],
    pruning: dict[str, Any],
    quantization: dict[str, Any],
    encoder: list[str],
    zeros: Zeros,
) -> None:
    steps = {"max_steps": 8, "val_check_interval": 4, "devices": 2, "strategy": "ddp"}
    callbacks = [pruning, quantization]
    if all_at_once:
        steps |= {"accumulate_grad_batches": 2, "val_check_interval": 8}  # of batches
        steps |= {"gradient_clip_val": 0.1, "precision": "bf16-mixed"}
        callbacks.append({"class_path": "ExponentialMovingAverage", "init_args": {"decay": 0.9}})
    changes = {"trainer": steps, "runs": str(tmp_path / "runs"), "callbacks": callbacks}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(changed(recipe, changes)))
    done = script(Path(__file__).with_name("ranks.py"), tmp_path / "recipe.yaml", tmp_path)
    first, second = (torch.load(tmp_path / f"trained.{rank}", weights_only=True) for rank in (0, 1))
    assert sum(name.endswith("weight_mask") for name in first) == len(encoder)
    for name, value in first.items():
        torch.testing.assert_close(second[name], value, rtol=0, atol=0, msg=name)
    main, other = (torch.load(tmp_path / f"finished.{rank}", weights_only=True) for rank in (0, 1))
    folder = tmp_path / "runs/recipe/one"
    assert (main["saved"], other["saved"]) == ([str(folder / "student")], [])
    state = load_file(folder / "student/model.safetensors")
    count, total = zeros(state, encoder)
    assert count == round(0.8 * total)
    for name, value in state.items():
        assert torch.equal(main["student"][name], value)
        assert torch.equal(other["student"][name], value)
    assert [path.name for path in folder.parent.iterdir()] == ["one"]
    assert done.out.count("student of step 8") == 1
    assert json.loads((folder / "result.json").read_text())["saved_step"] == 8
