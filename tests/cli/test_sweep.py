"""What ``distill sweep`` promises."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from distill.cli.main import main
from distill.config.files import load
from distill.run.folder import Run
from distill.workflows.trials.process import run_to_end
from distill.workflows.trials.recipe import parse_recipe

Distill = Callable[..., Any]

RECIPE = {"model": {"losses": [{"class_path": "HintonKL", "init_args": {"temperature": 1.0}}], "optimizer": {}}}
SWEEP: dict[str, Any] = {
    "name": "mine",
    "method": "grid",
    "metric": {"name": "val/accuracy", "goal": "maximize"},
    "parameters": {"model.losses.0.temperature": {"values": [2.0, 4.0, 3.0]}, "model.optimizer.lr": {"value": 1e-4}},
}
FOLDER = Path("runs/mine")


class Fits:
    """Stands in for the processes of ``distill fit``: a student's accuracy is a tenth of its temperature."""

    def __init__(self) -> None:
        self.commands: list[list[str]] = []
        self.codes: dict[str, int] = {}
        self.interrupted_at: str | None = None

    @property
    def ids(self) -> list[str]:
        return [command[command.index("--id") + 1] for command in self.commands]

    def __call__(self, command: Sequence[str]) -> int:
        self.commands.append(list(command))
        words = list(command)
        at = words.index("--id")
        run_id = words[at + 1]
        del words[at : at + 4]  # --id ID --resume auto
        recipe = parse_recipe(words[4:])
        config = load(recipe.files, recipe.overrides)
        run = Run(Path(config.get("runs", "runs")) / config["name"] / run_id)
        if run_id == self.interrupted_at:
            run.begin(config)
            raise KeyboardInterrupt
        if code := self.codes.get(run_id, 0):
            return code
        run.begin(config)
        score = config["model"]["losses"][0]["init_args"]["temperature"] / 10
        scores = {"student": {"accuracy": score, "perplexity": score}, "teacher": {}}
        run.write_result({"monitor": "accuracy", "mode": "max", "scores": scores, "steps": 2})
        return 0


@pytest.fixture
def fits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fits:
    monkeypatch.chdir(tmp_path)
    Path("base.yaml").write_text(yaml.safe_dump(RECIPE))
    write()
    found = Fits()
    monkeypatch.setattr("distill.workflows.sweep.run.run_to_end", found)
    monkeypatch.setattr("distill.workflows.sweep.run.check_values", lambda *_: None)  # the recipe is no whole one
    return found


def write(**changes: Any) -> None:
    Path("sweep.yaml").write_text(yaml.safe_dump(SWEEP | changes))


def rows(out: str) -> list[str]:
    """The first cells of the table's rows, in order."""
    lines = (line.split() for line in out[out.rindex("─") :].splitlines())
    return [words[0] for words in lines if words and words[0].startswith("trial-")]


def test_every_trial_is_a_run_of_its_own(distill: Distill, fits: Fits) -> None:
    code, _, err = distill("sweep", "sweep.yaml", "-c", "base.yaml", "--data.path=x")
    assert (code, err) == (0, "")
    assert fits.ids == ["trial-0001", "trial-0002", "trial-0003"]
    for command, temperature in zip(fits.commands, (2.0, 4.0, 3.0), strict=True):
        assert command[:4] == [sys.executable, "-m", "distill.cli", "fit"]
        assert command[command.index("--resume") + 1] == "auto"
        config = yaml.safe_load((FOLDER / command[command.index("--id") + 1] / "config.yaml").read_text())
        assert config["name"] == "mine"
        assert config["model"]["losses"][0]["init_args"] == {"temperature": temperature}
        assert config["model"]["optimizer"] == {"lr": 1e-4}
        assert config["data"]["init_args"] == {"path": "x"}


def test_the_table_begins_with_the_best_and_says_how_to_repeat_it(distill: Distill, fits: Fits) -> None:
    _, out, _ = distill("sweep", "sweep.yaml", "-c", "base.yaml")
    assert rows(out) == ["trial-0002", "trial-0003", "trial-0001"]
    command = shlex.split(out.splitlines()[-1])
    assert command[:2] == ["distill", "fit"]
    recipe = parse_recipe(command[2:])
    best = load(recipe.files, recipe.overrides)
    assert best["model"]["losses"][0]["init_args"]["temperature"] == 4.0
    assert best["model"]["optimizer"]["lr"] == 1e-4


def test_a_metric_may_be_one_to_minimize_or_the_tasks_own(distill: Distill, fits: Fits) -> None:
    write(metric={"name": "perplexity", "goal": "minimize"})
    language = ("sweep", "sweep.yaml", "-c", "base.yaml", "--model.task=causal-lm")
    assert rows(distill(*language).out) == ["trial-0001", "trial-0003", "trial-0002"]
    write(metric=None)
    assert rows(distill(*language).out) == ["trial-0002", "trial-0003", "trial-0001"]


def test_progress_names_the_trial_and_its_parameters(distill: Distill, fits: Fits) -> None:
    _, out, _ = distill("sweep", "sweep.yaml", "-c", "base.yaml")
    assert "trial 2 of 3: --model.losses.0.temperature=4.0 --model.optimizer.lr=0.0001\n" in out


def test_an_interrupted_sweep_resumes_where_it_stopped(distill: Distill, fits: Fits) -> None:
    fits.interrupted_at = "trial-0002"
    code, out, _ = distill("sweep", "sweep.yaml", "-c", "base.yaml")
    assert code == 130
    assert rows(out) == ["trial-0001", "trial-0002", "trial-0003"]
    assert fits.ids == ["trial-0001", "trial-0002"]
    fits.interrupted_at, fits.commands = None, []
    (FOLDER / "trial-0002" / "config.yaml").unlink()  # what stands in does not resume
    (FOLDER / "trial-0002").rmdir()
    code, out, _ = distill("sweep", "sweep.yaml", "-c", "base.yaml")
    assert code == 0
    assert fits.ids == ["trial-0002", "trial-0003"]
    assert rows(out) == ["trial-0002", "trial-0003", "trial-0001"]
    fits.commands = []
    assert distill("sweep", "sweep.yaml", "-c", "base.yaml").code == 0
    assert fits.ids == []


def test_a_trial_that_fails_is_reported_and_the_others_run(distill: Distill, fits: Fits) -> None:
    fits.codes["trial-0002"] = 2
    code, out, err = distill("sweep", "sweep.yaml", "-c", "base.yaml")
    assert code == 1
    assert "trial-0002 failed with exit code 2" in out
    assert "1 of 3 trials failed: trial-0002" in err
    assert rows(out) == ["trial-0003", "trial-0001", "trial-0002"]


def test_a_dry_run_lists_the_trials_and_writes_nothing(distill: Distill, fits: Fits) -> None:
    before = set(Path().rglob("*"))
    code, out, _ = distill("sweep", "sweep.yaml", "-c", "base.yaml", "--dry-run")
    assert code == 0
    assert rows(out) == ["trial-0001", "trial-0002", "trial-0003"]
    assert set(Path().rglob("*")) == before
    assert fits.commands == []


def test_the_recipe_may_stand_in_the_file(distill: Distill, fits: Fits) -> None:
    write(command=["distill", "fit", "-c", "base.yaml", "--seed=1", "${args}"])
    assert distill("sweep", "sweep.yaml", "--data.path", "x").code == 0
    config = yaml.safe_load((FOLDER / "trial-0001" / "config.yaml").read_text())
    assert (config["seed"], config["data"]["init_args"]["path"]) == (1, "x")


def test_the_seed_is_that_of_the_search(distill: Distill, fits: Fits) -> None:
    write(method="random", run_cap=2, parameters={"model.optimizer.lr": {"min": 0.0, "max": 1.0}})
    outs = [distill("sweep", "sweep.yaml", "-c", "base.yaml", "--dry-run", *seed).out for seed in ([], ["--seed", "1"])]
    assert outs[0] != outs[1]
    assert rows(outs[0]) == rows(outs[1]) == ["trial-0001", "trial-0002"]


@pytest.mark.parametrize(
    "value",
    ["text", "1", "true", "[a", "a b", "", 'quo"ted', 1, 1e-05, 1e22, True, None, [1, 3], {"path": "x"}],
    ids=str,
)
def test_a_value_reaches_its_run_as_it_is(distill: Distill, fits: Fits, value: Any) -> None:
    write(parameters={"data.value": {"value": value}})
    assert distill("sweep", "sweep.yaml", "-c", "base.yaml").code == 0
    found = yaml.safe_load((FOLDER / "trial-0001" / "config.yaml").read_text())["data"]["init_args"]["value"]
    assert found == value
    assert type(found) is type(value)


def test_runs_of_another_sweep_are_not_taken_for_this_ones(distill: Distill, fits: Fits) -> None:
    assert distill("sweep", "sweep.yaml", "-c", "base.yaml").code == 0
    longer = {**SWEEP["parameters"], "model.optimizer.lr": {"values": [1e-4, 2e-4]}}
    write(parameters=longer)  # trial-0002 would now be another
    code, _, err = distill("sweep", "sweep.yaml", "-c", "base.yaml")
    assert code == 2
    assert "name = 'mine'" in err
    assert "another sweep" in err
    write()
    assert distill("sweep", "sweep.yaml", "-c", "base.yaml", "--seed=0", "--data.path=y").code == 2  # another recipe
    assert len(fits.commands) == 3


def test_a_sweep_may_be_made_longer_and_shorter(distill: Distill, fits: Fits) -> None:
    for cap, count in ((2, 2), (1, 2), (3, 3)):
        write(run_cap=cap)
        assert distill("sweep", "sweep.yaml", "-c", "base.yaml").code == 0
        assert len(fits.commands) == count
        assert len(json.loads((FOLDER / "sweep.json").read_text())["trials"]) == count


DAMAGED: list[Any] = [
    None,  # it is gone
    b"{}",
    b'{"trials": []}',
    b'{"trials": {"0": 1}}',
    b'{"trials": [1, 2, 3]}',
    b'{"trials": "\\u001b[2J\\ud800"}',
    b'{"recipe": ' + b"9" * 5000 + b"}",
    b"[" * 100_000,
    b'{"trials": ' * 100_000,
    b'{"recipe": 1, "recipe": 1}',
    '{"trials": []}'.encode("utf-16"),
    b'\xef\xbb\xbf{"trials": []}',
]


@pytest.mark.parametrize("content", DAMAGED, ids=lambda content: repr(content)[:24])
def test_runs_are_taken_for_trials_by_what_is_recorded_alone(content: Any, distill: Distill, fits: Fits) -> None:
    assert distill("sweep", "sweep.yaml", "-c", "base.yaml").code == 0
    file = FOLDER / "sweep.json"
    file.unlink() if content is None else file.write_bytes(content)
    write(parameters=SWEEP["parameters"] | {"model.optimizer.lr": {"value": 1e-3}})
    code, out, err = distill("sweep", "sweep.yaml", "-c", "base.yaml")
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    assert "sweep" in err
    assert "\x1b" not in err
    assert len(fits.commands) == 3
    assert (file.read_bytes() if content else None) == content


def test_what_is_recorded_holds_no_secret(distill: Distill, fits: Fits) -> None:
    for _ in range(2):  # and it is still known for the same sweep
        assert distill("sweep", "sweep.yaml", "-c", "base.yaml", "--data.hub_token=s3cret").code == 0
    assert "s3cret" not in (FOLDER / "sweep.json").read_text()


def test_an_unknown_metric_is_reported_before_the_first_trial(distill: Distill, fits: Fits) -> None:
    write(metric={"name": "val/acuracy", "goal": "maximize"})
    code, _, err = distill("sweep", "sweep.yaml", "-c", "base.yaml")
    assert code == 2
    assert "metric.name = 'acuracy'" in err
    assert "'accuracy'" in err
    assert not fits.commands
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["sweep"], "FILE: must be given"),
        (["sweep", "missing.yaml", "-c", "base.yaml"], "FILE = 'missing.yaml'"),
        (["sweep", "sweep.yaml"], "-c: says no `command`"),
        (["sweep", "sweep.yaml", "-c", "missing"], "--config = 'missing'"),
        (["sweep", "sweep.yaml", "-c", "base.yaml", "--seed", "x"], "--seed = 'x': must be an integer"),
    ],
)
def test_mistakes_leave_nothing_behind(distill: Distill, fits: Fits, argv: list[str], message: str) -> None:
    refused(distill, argv, message)


def refused(distill: Distill, argv: Sequence[str], message: str) -> None:
    before = set(Path().rglob("*"))
    code, _, err = distill(*argv)
    assert code == 2
    assert message in err
    assert set(Path().rglob("*")) == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "../mine"}, "name = '../mine'"),
        ({"parameters": {"model.losses.7.weight": {"value": 1}}}, "--model.losses.7"),
        ({"parameters": {"seed": {"values": []}}}, "parameters.seed.values"),
    ],
)
def test_mistakes_in_the_file_leave_nothing_behind(
    distill: Distill, fits: Fits, change: dict[str, Any], message: str
) -> None:
    write(**change)
    refused(distill, ["sweep", "sweep.yaml", "-c", "base.yaml"], message)


def first_here(command: Sequence[str]) -> int:
    """The first trial in this process, which has imported all; the others in theirs."""
    return main([*command[3:]]) if "trial-0001" in command else run_to_end(command)


@pytest.mark.slow
def test_two_students_are_trained_and_ranked(
    base: dict[str, Any], distill: Distill, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("distill.workflows.sweep.run.run_to_end", first_here)
    write(parameters={"model.losses.0.temperature": {"values": [1.0, 2.0]}})
    code, out, err = distill("sweep", "sweep.yaml", "-c", "base.yaml", "--trainer.max_steps=1")
    assert code == 0, err
    assert sorted(rows(out)) == ["trial-0001", "trial-0002"]
    for trial, temperature in (("trial-0001", 1.0), ("trial-0002", 2.0)):
        run = Run.open(FOLDER / trial)
        assert run.state == "finished"
        assert run.config["model"]["losses"][0]["init_args"]["temperature"] == temperature
    assert "best is runs/mine/trial-000" in out
