"""What is promised where the files of the data change after a run: what then is said of it is of other data."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from transformers import AutoTokenizer

from distill.data.features import Ragged, Samples
from distill.run.samples import changes, of_other_samples, samples_of
from distill.workflows.trials.recipe import parse_recipe

Distill = Callable[..., Any]
Fitted = Callable[..., Path]

FILES = ("--data.path", "null", "--data.files.train", "train.csv", "--data.files.validation", "held.csv")
ALONE = ("--model.losses", "[CrossEntropy]")
OTHER = "the validation samples are not those that the run was scored on: 11 samples, there were 12"
TRAINED = "the training samples are not those that the run was trained on: 24 samples, as many, but not the same"


def written(name: str, count: int, word: str = "cat") -> None:
    rows = (f"the {word} is {'good' if i % 2 else 'bad'},{'positive' if i % 2 else 'negative'}" for i in range(count))
    Path(name).write_text("text,label\n" + "\n".join(rows) + "\n")


@pytest.fixture
def alone(base: dict[str, Any], fitted: Fitted) -> Path:
    """A run without a teacher, on files of its own."""
    written("train.csv", 24)
    written("held.csv", 12)
    return fitted(*FILES, *ALONE, run_id="alone")


def test_a_result_records_its_samples(alone: Path) -> None:
    data = json.loads((alone / "result.json").read_text())["data"]
    assert data["train"]["samples"] == 24
    assert data["validation"]["samples"] == 12
    assert len({data["tokenizer"], data["train"]["fingerprint"], data["validation"]["fingerprint"]}) == 3


@pytest.mark.parametrize("theirs", ["teacher_input_ids", "route"])
def test_samples_that_a_teacher_reads_in_its_own_way_are_not_compared(theirs: str, tiny_tokenizer_dir: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_tokenizer_dir)
    own = {"input_ids": Ragged(np.arange(6), np.array([0, 2, 6]))}
    more = own | {theirs: Ragged(np.arange(4), np.array([0, 2, 4]))}
    alone, taught, other = (
        SimpleNamespace(tokenizer=tokenizer, tokenized={"validation": Samples(values, 0)})
        for values in (own, more, {"input_ids": more[theirs]})
    )
    assert not of_other_samples({"data": samples_of(alone)}, samples_of(taught))
    assert changes({"data": samples_of(taught)}, alone) == []
    assert of_other_samples({"data": samples_of(alone)}, samples_of(other))
    assert len(changes({"data": samples_of(alone)}, other)) == 1


def test_what_scores_a_run_says_that_its_data_have_changed(
    alone: Path, distill: Distill, caplog: pytest.LogCaptureFixture
) -> None:
    commands = [
        ["validate", str(alone)],
        ["export", str(alone), "--to", "hf"],
        ["sensitivity", str(alone), "--samples", "4"],
        ["quantize", str(alone), "--id", "int8"],
        ["report", str(alone), "--no-timing", "--draws", "20"],
    ]
    assert distill(*commands[0]).code == 0
    assert "samples are not those" not in caplog.text
    written("held.csv", 11)
    written("train.csv", 24, "dog")
    for command in commands:
        caplog.clear()
        code, _, err = distill(*command)
        assert code == 0, err
        assert OTHER in caplog.text
        assert (TRAINED in caplog.text) == (command[0] == "quantize"), "what calibrates reads them"
    assert OTHER in (alone / "report.json").read_text()
    made = json.loads(Path("runs/base-quantized/int8/result.json").read_text())["data"]
    assert (made["train"]["samples"], made["validation"]["samples"]) == (24, 11)
    caplog.clear()
    assert distill("validate", "runs/base-quantized/int8").code == 0
    assert "samples are not those" not in caplog.text


def test_scores_of_other_samples_stand_beside_none(alone: Path, fitted: Fitted, distill: Distill) -> None:
    same = json.loads((fitted(*FILES, run_id="same") / "result.json").read_text())
    assert Path(same["beside"]).name == "alone"
    written("held.csv", 12, "dog")
    taught = fitted(*FILES, run_id="taught")
    assert json.loads((taught / "result.json").read_text())["beside"] == ""
    code, _, err = distill("fit", "-c", "base.yaml", *FILES, "--id", "new", "--beside", str(alone))
    assert code == 2
    assert "scored on other validation samples" in err
    assert not Path("runs/base/new").exists()
    said = " ".join(distill("runs", "--compare", str(alone), "runs/base/same", str(taught)).out.split())
    assert f"{taught} was scored on other validation samples than {alone}" in said
    assert said.count("was scored on other") == 1


@pytest.mark.slow
def test_a_sweep_does_not_rank_trials_of_other_samples(alone: Path, distill: Distill) -> None:
    Path("sweep.yaml").write_text(
        "name: mine\nmethod: grid\nparameters: {model.optimizer.lr: {values: [0.001, 0.002]}}\n"
        "metric: {name: val/accuracy, goal: maximize}\n"
    )
    recipe = ("-c", "base.yaml", *FILES, *ALONE)
    first = ("fit", *recipe, "--name=mine", "--id", "trial-0001", "--model.optimizer.lr=0.001")
    assert distill(*first).code == 0
    written("held.csv", 11)
    assert distill("fit", *recipe, "--name=mine", "--id", "trial-0002", "--model.optimizer.lr=0.002").code == 0
    parameters = [{"model.optimizer.lr": lr} for lr in (0.001, 0.002)]
    recorded = parse_recipe(list(recipe)).recorded()
    Path("runs/mine/sweep.json").write_text(json.dumps({"recipe": recorded, "trials": parameters}))
    code, _, err = distill("sweep", "sweep.yaml", *recipe)
    assert code == 1, err
    assert "runs/mine/trial-0002 was scored on other validation samples than trial-0001" in err
