"""What is promised where the files of the data change after a run: what then is said of it is of other data."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import permutations
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from transformers import AutoTokenizer

from distill.core.utils.errors import TrainingError
from distill.data.features import Ragged, Samples
from distill.run.folder import Run
from distill.run.samples import changes, of_other_samples, samples_of
from distill.workflows.trials.recipe import parse_recipe
from distill.workflows.trials.trial import refuse_other_samples

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
    assert len({data["tokenizer"], data["train"]["checksum"], data["validation"]["checksum"]}) == 3


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


def test_samples_have_one_checksum_in_any_order_and_another_if_one_value_is_other() -> None:
    rows = [([3, 4], 1.0), ([3], 4.0), ([], 0.5), ([4, 3], 1.0), ([3], 4.0)]

    def checksum(rows: list[tuple[list[int], float]]) -> str:
        values = [value for ids, _ in rows for value in ids]
        ids = Ragged(np.array(values, np.int32), np.cumsum([0, *(len(r[0]) for r in rows)]))
        return Samples({"input_ids": ids, "label": np.array([r[1] for r in rows], np.float32)}, 0).checksum

    assert {checksum(list(order)) for order in permutations(rows)} == {checksum(rows)}
    others = [
        rows[:-1],
        [*rows, rows[0]],
        [*rows[:-1], ([3], 4.5)],
        [*rows[:-1], ([5], 4.0)],
        [([3, 4, 3], 1.0), ([], 4.0), *rows[2:]],  # the same values in rows of other lengths
        [([3, 4], 4.0), ([3], 1.0), *rows[2:]],  # labels changed places
    ]
    assert len({checksum(rows), *map(checksum, others)}) == 1 + len(others)


def test_a_trial_is_compared_with_the_first_that_was_scored(tmp_path: Path) -> None:
    def run(name: str, checksum: str) -> Run:
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.yaml").write_text("data: {path: here}\n")
        if checksum:
            data = {"tokenizer": "t", "validation": {"samples": 3, "checksum": checksum}}
            (tmp_path / name / "result.json").write_text(json.dumps({"data": data}))
        return Run(tmp_path / name)

    failed, first, same, other = run("1", ""), run("2", "a"), run("3", "a"), run("4", "b")
    trials = [failed, first, same, other]
    refuse_other_samples(first, trials)
    refuse_other_samples(same, trials)
    with pytest.raises(TrainingError, match="4 was scored on other validation samples than 2"):
        refuse_other_samples(other, trials)


def test_a_compressed_run_does_not_take_over_samples_read_otherwise(alone: Path, distill: Distill) -> None:
    result = json.loads((alone / "result.json").read_text())
    made = []
    for name, tokenizer in (("as-here", ""), ("otherwise", ", and a teacher's")):
        data = result["data"] | {"tokenizer": result["data"]["tokenizer"] + tokenizer}
        (alone / "result.json").write_text(json.dumps(result | {"data": data}))
        assert distill("prune", str(alone), "--method", "magnitude", "--id", name).code == 0
        made.append(json.loads(Path(f"runs/base-pruned/{name}/result.json").read_text())["data"])
    assert made[0] == result["data"]
    assert made[1] == {name: value for name, value in made[0].items() if name != "train"}


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
    head, *rows = Path("held.csv").read_text().splitlines()
    Path("held.csv").write_text("\n".join([head, *reversed(rows)]))
    assert distill(*commands[0]).code == 0
    assert "samples are not those" not in caplog.text, "the same ones in another order"
    assert distill(*commands[0], "--data.max_length", "4").code == 0
    assert "12 samples, as many, but not the same; read by another data.max_length" in caplog.text
    result = json.loads((alone / "result.json").read_text())
    (alone / "result.json").write_text(json.dumps(result | {"measured": result["measured"] | {"unsteady": "random"}}))
    written("held.csv", 11)
    written("train.csv", 24, "dog")
    for command in commands:
        caplog.clear()
        code, _, err = distill(*command)
        assert code == 0, err
        assert OTHER in caplog.text
        assert (TRAINED in caplog.text) == (command[0] == "quantize"), "what calibrates reads them"
    assert OTHER in (alone / "report.json").read_text()
    quantized = json.loads(Path("runs/base-quantized/int8/result.json").read_text())
    made = quantized["data"]
    assert quantized["measured"]["unsteady"] == "random", "the same model is no steadier"
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
    assert "not the same" not in said
    config = Path("runs/base/same/config.yaml")
    config.write_text(config.read_text().replace("max_length:", "max_length: 7 #"))
    result = Path("runs/base/same/result.json")
    result.write_text(result.read_text().replace(same["data"]["validation"]["checksum"], "other"))
    said = " ".join(distill("runs", "--compare", str(alone), "runs/base/same").out.split())
    assert f"runs/base/same was scored on other validation samples than {alone}: not the same data.max_length" in said


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
