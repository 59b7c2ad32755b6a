"""Sweep files: those of W&B, read by us."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from distill.config.files import parse_value, recipes, split_override
from distill.core.utils.errors import UserError
from distill.workflows.sweep.file import find_sweep, read_sweep
from distill.workflows.sweep.search import trials
from distill.workflows.trials.recipe import Recipe

GRID: dict[str, Any] = {"method": "grid", "parameters": {"seed": {"values": [0, 1]}}}
SHIPPED = "sweeps/sst2-hinton"


def written(folder: Path, content: Any) -> Path:
    path = folder / "mine.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def test_a_file_is_named_after_itself_unless_it_says_otherwise(tmp_path: Path) -> None:
    assert read_sweep(written(tmp_path, GRID)).name == "mine"
    assert read_sweep(written(tmp_path, {**GRID, "name": "other"})).name == "other"


def test_a_metric_is_called_as_it_is_logged_or_as_the_table_calls_it(tmp_path: Path) -> None:
    for name in ("val/accuracy", "accuracy"):
        file = read_sweep(written(tmp_path, {**GRID, "metric": {"name": name, "goal": "maximize"}}))
        assert (file.metric, file.mode) == ("accuracy", "max")


def test_a_command_is_the_recipe_of_every_trial(tmp_path: Path) -> None:
    command = ["${env}", "distill", "fit", "-c", "a", "--config", "b.yaml", "--allow", "mine"]
    command += ["--data.path=x y", "--seed", "3", "${args}"]
    recipe = read_sweep(written(tmp_path, {**GRID, "command": command})).recipe
    assert recipe is not None
    assert recipe == Recipe(files=("a", "b.yaml"), allow=("mine",), overrides=(("data.path", "x y"), ("seed", "3")))
    assert recipe.words() == ["-c", "a", "-c", "b.yaml", "--allow", "mine", "--data.path=x y", "--seed=3"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"methd": "grid"}, r"methd: no such key.*'method'"),
        ({"method": None}, r"method: must be grid or random"),
        ({"method": "bayes"}, r"method = 'bayes'.*wandb agent"),
        ({"early_terminate": {"type": "hyperband"}}, r"early_terminate.*wandb agent"),
        ({"parameters": {}}, r"parameters = {}: must hold"),
        ({"parameters": None}, r"parameters: must hold"),
        ({"parameters": {"seed": 3}}, r"parameters\.seed = 3.*\{value: 3\}"),
        ({"parameters": {"runs": {"value": "x"}}}, r"parameters\.runs: is the same for all"),
        ({"metric": "accuracy"}, r"metric = 'accuracy': must hold name and goal"),
        ({"metric": {"name": "accuracy"}}, r"metric\.goal: must be maximize or minimize"),
        ({"metric": {"name": "accuracy", "goal": ["maximize"]}}, r"metric\.goal = .*: must be maximize or minimize"),
        ({"parameters": {1: {"value": 2}}}, r"parameters = 1: is no key"),
        ({"metric": {"name": "accuracy", "gaol": "maximize"}}, r"metric = .*must hold name and goal"),
        ({"run_cap": 0}, r"run_cap = 0: must be an integer"),
        ({"run_cap": True}, r"run_cap = True: must be an integer"),
        ({"command": ["python", "train.py", "${args}"]}, r"command = .*must be distill fit"),
        ({"command": ["distill", "fit", "-c", "a"]}, r"command = .*\$\{args\}"),
        ({"command": ["distill", "fit", "-c", "a", "--id", "b", "${args}"]}, r"'--id': cannot be given"),
        ({"command": ["distill", "fit", "stray", "${args}"]}, r"'stray': cannot be given"),
        ({"command": ["distill", "fit", "${args}", "-c"]}, r"command: argument -c/--config: expected one"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_cannot_be_meant_is_refused_by_its_key(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_sweep(written(tmp_path, {**GRID, **change}))


@pytest.mark.parametrize("text", ["", "- a\n", "a: [", "\x00"])
def test_a_file_that_is_no_mapping_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(UserError):
        read_sweep(path)


def test_a_missing_file_is_refused_with_the_shipped_ones() -> None:
    with pytest.raises(UserError, match=SHIPPED):
        find_sweep("sweeps/sst2-hintn")


# ---------------------------------------------------------------------- with W&B's own eyes


def test_the_shipped_sweep_says_how_it_is_run_and_is_no_recipe() -> None:
    path = find_sweep(SHIPPED)
    assert f"#   distill sweep {SHIPPED}" in path.read_text()
    assert SHIPPED not in recipes()
    file = read_sweep(path)
    assert file.recipe is not None
    assert set(file.recipe.files) <= set(recipes())
    assert len(trials(file)) == 18


def test_the_shipped_sweep_is_to_wandb_what_it_is_to_us() -> None:
    from wandb.sdk.launch.sweeps.utils import load_sweep_config

    theirs = load_sweep_config(str(find_sweep(SHIPPED)))
    assert theirs is not None
    ours = read_sweep(find_sweep(SHIPPED))
    assert theirs["parameters"] == ours.parameters
    assert theirs["command"][:2] == ["distill", "fit"]
    assert theirs["metric"] == {"name": f"val/{ours.metric}", "goal": "maximize"}


@pytest.mark.parametrize("value", [2.0, 1e-05, 3, True, False, "uniform", [1, 3], ["a", "b"]], ids=str)
def test_the_arguments_that_the_agent_of_wandb_gives_are_understood(value: Any) -> None:
    from wandb.sdk.launch.sweeps.utils import create_sweep_command_args

    [word] = create_sweep_command_args({"args": {"model.losses.1.temperature": {"value": value}}})["args"]
    (key, text), _ = split_override(word, [])
    assert key == "model.losses.1.temperature"
    found = parse_value(text, key)
    assert found == value
    assert type(found) is type(value)
