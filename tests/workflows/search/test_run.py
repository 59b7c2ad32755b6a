"""A search over runs that figures stand for: what it picks, keeps, writes, and goes on with."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from distill.config.files import load
from distill.workflows.search.run import resume

FOLDER = Path("runs/base-search")
SEARCH = ("search", "-c", "base.yaml", "--target", "accuracy >= 0.9 * teacher", "--rungs", "0.25,1")


def figures(config: dict[str, Any]) -> tuple[float, int]:
    """Fewer layers, heads, neurons and bits weigh less and know less; longer runs know more."""
    layers = config["model"]["student"]["num_layers"]
    given = {one["class_path"].rsplit(".", 1)[-1]: one.get("init_args") or {} for one in config["callbacks"]}
    structure, rounding = given.get("StructuredPruning", {}), given["QuantizationAwareTraining"]
    table = (rounding.get("embeddings") or {}).get("bits", 8)
    bits = sum(8 if value is None else value for value in (rounding.get("overrides") or {"": 16}).values())
    left = 4 - structure.get("heads", 0) - structure.get("neurons", 0)
    size = int(100 * table + 10 * layers * left * bits)
    short = 0.1 if config["trainer"]["max_steps"] < 8 else 0.0
    return round(0.9 - 40 / size - short, 6), size


def record() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((FOLDER / "search.json").read_text())
    return found


@pytest.fixture
def fast(searched: dict[str, Any], trials: Any) -> Any:
    trials.figures = figures
    return trials


def test_the_best_and_the_fronts_are_what_comparing_all_runs_finds(fast: Any, distill: Any) -> None:
    code, out, err = distill(*SEARCH, "--trials", "9")
    assert code == 0, err
    found = record()
    runs = [run for trial in found["trials"] for run in trial["rungs"]]
    assert len(found["trials"]) == 9
    assert len(runs) == len(fast.ids) == len(set(fast.ids))
    met = [run for run in runs if run["value"] >= 0.9 * 0.9]
    least = min(met, key=lambda run: run["bytes"])
    assert found["best"]["run"] == least["run"]

    def beaten(run: dict[str, Any], cost: str) -> bool:
        return any(
            other["value"] >= run["value"]
            and other[cost] <= run[cost]
            and (other["value"], other[cost]) != (run["value"], run[cost])
            for other in runs
        )

    for kind, cost in (("bytes", "bytes"), ("latency", "latency_ms")):
        expected = {(run["value"], run[cost]) for run in runs if not beaten(run, cost)}
        there = [next(run for run in runs if run["run"] == point["run"]) for point in found["front"][kind]]
        assert {(run["value"], run[cost]) for run in there} == expected
    files = {point["file"] for points in found["front"].values() for point in points}
    assert {path.relative_to(FOLDER).as_posix() for path in FOLDER.glob("front/*")} == files
    for file in files:  # each is the recipe of its run
        config = load([str(FOLDER / file)])
        run = next(run for run in runs if run["run"] == Path(file).stem)
        assert figures(config) == (run["value"], run["bytes"])
    assert (FOLDER / "front.png").is_file()
    assert f"distill fit -c {FOLDER}/front/{least['run']}.yaml" in out
    assert set(found["importance"]) == {"quality", "cost"}
    assert all(abs(sum(parts.values()) - 1) < 0.01 for parts in found["importance"].values())


def test_what_is_searched_is_said_and_the_recipe_comes_first(fast: Any, distill: Any) -> None:
    code, out, _ = distill(*SEARCH, "--trials", "3", "--knob", "neurons=recipe", "--knob", "layers=1,2")
    assert code == 0
    assert "trial 1 is the recipe itself: layers 2, heads 0.5, bits.attention 8" in re.sub(r"\s+", " ", out)
    first, second, _ = record()["trials"]
    assert first["values"] == {
        "layers": 2,
        "heads": 0.5,
        "bits.attention": 8,
        "bits.ffn": 8,
        "bits.embeddings": 8,
        "temperature.HintonKL": 2.0,
        "weight.CrossEntropy": 1.0,
    }
    assert {name for name in first["values"] if first["values"][name] != second["values"][name]} <= {
        "bits.attention",
        "bits.ffn",
        "bits.embeddings",
    }
    assert len(first["rungs"]) == 2


@pytest.mark.slow
def test_an_interrupted_search_goes_on_as_an_undisturbed_one_would(fast: Any, distill: Any) -> None:
    assert distill(*SEARCH, "--trials", "5", "--name", "whole").code == 0
    whole = json.loads(Path("runs/whole/search.json").read_text())
    commands = len(fast.commands)
    fast.commands.clear()
    for stop in (1, 4, commands - 1):  # in the middle of a trial, between fit and export, at the last one
        fast.stop_at = stop
        assert distill(*SEARCH, "--trials", "5").code == 130
    fast.stop_at = None
    resume(str(FOLDER), None)
    assert len(fast.commands) == commands  # nothing was run twice
    assert [trial["values"] for trial in record()["trials"]] == [trial["values"] for trial in whole["trials"]]
    for key in ("front", "importance", "best"):
        assert record()[key] == whole[key], key


def test_a_search_goes_further_with_more_trials(fast: Any, distill: Any) -> None:
    assert distill(*SEARCH, "--trials", "2").code == 0
    before = record()["trials"]
    assert distill(*SEARCH, "--trials", "3").code == 0
    assert record()["trials"][:2] == before
    assert len(record()["trials"]) == 3
    code, _, err = distill(*SEARCH, "--trials", "3", "--minimize", "latency")
    assert code == 2
    assert "--minimize" in err
    assert "begun with another one" in err


def test_a_trial_that_fails_is_told_and_the_others_run(fast: Any, distill: Any) -> None:
    fast.fails = {"trial-0002-rung-1"}
    code, out, _ = distill(*SEARCH, "--trials", "3")
    assert code == 0
    assert "trial 2 of 3 failed: trial-0002-rung-1 ended with exit code 1" in out
    assert [bool(trial["failed"]) for trial in record()["trials"]] == [False, True, False]


def test_a_trial_that_another_process_still_trains_is_waited_for_and_not_failed(
    fast: Any, distill: Any, tmp_path: Path
) -> None:
    fast.stop_at = 5  # the first trial's runs and exports, and the second's first run
    assert distill(*SEARCH, "--trials", "3").code == 130
    fast.stop_at = None
    orphan = FOLDER / "trial-0002-rung-2"
    orphan.mkdir()
    holder = (
        "import sys; from pathlib import Path; from distill.run.lock import locked\nwith locked(Path(sys.argv[1])):"
    )
    holder += " print('held', flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", holder, str(orphan / ".lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        code, _, err = distill(*SEARCH, "--trials", "3")
        other.communicate("")
    assert code == 2
    assert f"process {other.pid} on" in err
    assert "is writing this run. wait for it, or stop it first" in err
    shutil.rmtree(orphan)
    assert distill(*SEARCH, "--trials", "3").code == 0
    assert [trial.get("failed", "") for trial in record()["trials"]] == ["", "", ""]


def test_a_recipe_that_cannot_be_trained_ends_the_search(fast: Any, distill: Any) -> None:
    fast.fails = {"trial-0001-rung-1"}
    code, _, err = distill(*SEARCH, "--trials", "3")
    assert code == 1
    assert "it is the recipe itself" in err
    fast.fails = set()
    assert distill(*SEARCH, "--trials", "1").code == 0


def test_no_trial_that_meets_the_target_ends_with_code_3(fast: Any, distill: Any) -> None:
    code, _, err = distill(*SEARCH[:4], "accuracy >= 0.99", "--rungs", "1", "--trials", "1")
    assert code == 3
    assert "no trial meets accuracy >= 0.99; the nearest is trial 1" in err
    assert record()["best"] is None
    assert list(FOLDER.glob("front/*.yaml"))


def test_trials_at_random_are_others_and_begin_with_no_given_one(fast: Any, distill: Any) -> None:
    for name, sampler in (("one", "random"), ("two", "random"), ("three", "tpe")):
        distill(*SEARCH, "--trials", "3", "--sampler", sampler, "--name", name)
    one, two, three = (json.loads(Path(f"runs/{name}/search.json").read_text()) for name in ("one", "two", "three"))
    values = [[trial["values"] for trial in found["trials"]] for found in (one, two, three)]
    assert values[0] == values[1] != values[2]
    assert values[0][0] != values[0][1] != values[0][2]
    assert one["given"] == []


def test_a_dry_run_writes_nothing(searched: dict[str, Any], distill: Any) -> None:
    before = sorted(map(str, Path().rglob("*")))
    code, out, _ = distill(*SEARCH, "--dry-run")
    assert code == 0
    assert "bits.embeddings" in out
    assert sorted(map(str, Path().rglob("*"))) == before


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--trials", "0"], "--trials = 0: must be from 1"),
        (["--rungs", "0.5"], "--rungs = '0.5': must rise to 1"),
        (["--rungs", "0.01,0.02,1"], "of the recipe's 8 steps two rungs are 1"),
        (["--minimize", "size"], "--minimize = 'size': must be bytes, latency or gzipped_bytes"),
        (["--knob", "heats=0.5"], "--knob = 'heats': the recipe has no such knob"),
        (["--to", "onx"], "--to = 'onx': no such format"),
        (["--to", "hf", "--minimize", "latency"], "--minimize = 'latency': hf is not timed"),
        (["--resume", "nowhere"], "--target: is settled by the search that is resumed"),
        (["--callbacks.0.end", "4"], "callbacks.0.end = 4: is a step, and the rungs"),
        (["--callbacks", "[]", "--model.student.layers", "[1, 2]", "--model.student.num_layers", "null",
          "--model.losses", "[CrossEntropy]"], "-c: the recipe leaves nothing to search"),
    ],
    ids=lambda value: " ".join(value)[:30] if isinstance(value, list) else "",
)  # fmt: skip
def test_mistakes_are_refused_before_anything_is_written(
    argv: list[str], said: str, searched: dict[str, Any], distill: Any
) -> None:
    before = sorted(map(str, Path().rglob("*")))
    given = [*SEARCH[:5], *([] if "--rungs" in argv else SEARCH[5:]), *argv]
    code, out, err = distill(*given)
    assert (code, err.count("distill: error: ")) == (2, 1)
    assert said in err
    assert "Traceback" not in out + err
    assert sorted(map(str, Path().rglob("*"))) == before


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("accurcy >= 0.9", "--target = 'accurcy': a run of text-classification has no such metric"),
        ("accuracy", "--target = 'accuracy': is no rule"),
        ("accuracy >= 0.9 * distilled", "compares with the teacher alone"),
        ("accuracy <= 0.9", "of accuracy, more is better"),
        ("accuracy >= 0.9 * teacher", "the recipe has no teacher"),
    ],
)
def test_targets_that_mean_nothing_are_refused(target: str, said: str, searched: dict[str, Any], distill: Any) -> None:
    alone = ["--model.teacher", "null", "--model.losses", "[CrossEntropy]"] if "no teacher" in said else []
    code, _, err = distill("search", "-c", "base.yaml", "--target", target, *alone)
    assert code == 2
    assert said in err
    assert not Path("runs").exists()


def test_a_folder_that_is_no_searchs_is_left_alone(searched: dict[str, Any], distill: Any) -> None:
    FOLDER.mkdir(parents=True)
    (FOLDER / "mine.txt").write_text("mine")
    code, _, err = distill(*SEARCH)
    assert code == 2
    assert "is there, and is no search's" in err
    assert [path.name for path in FOLDER.iterdir()] == ["mine.txt"]
