"""The promises of paths and of the errors that speak of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from distill.core.utils.errors import UserError, nearest
from distill.core.utils.paths import at_home, check_folder, resolve
from distill.run.folder import Run
from distill.workflows.job.defaults import with_defaults


def test_a_package_path_is_the_shipped_folder() -> None:
    assert (Path(resolve("distill:quickstart/teacher", "model.teacher")) / "model.safetensors").is_file()


def test_an_unknown_package_path_names_the_nearest() -> None:
    with pytest.raises(UserError, match=r"model\.teacher = 'distill:quickstart/techer'.*distill:quickstart/teacher"):
        resolve("distill:quickstart/techer", "model.teacher")


def test_a_run_stands_for_the_student_it_saved(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").touch()
    with pytest.raises(UserError, match="saved no student yet"):
        resolve(str(tmp_path), "model.teacher")
    (tmp_path / "student").mkdir()
    assert resolve(str(tmp_path), "model.teacher") == str(tmp_path / "student")


def test_a_folder_is_itself_and_a_missing_one_is_reported(tmp_path: Path) -> None:
    assert resolve(str(tmp_path), "data.path") == str(tmp_path)
    with pytest.raises(UserError, match="no such folder"):
        resolve(str(tmp_path / "missing"), "data.path")


def test_a_folder_of_runs_names_them(tmp_path: Path) -> None:
    (tmp_path / "one" / "student").mkdir(parents=True)
    assert resolve(str(tmp_path), "data.path") == str(tmp_path)
    (tmp_path / "one" / "config.yaml").touch()
    with pytest.raises(UserError, match=f"holds runs. name one of them: {tmp_path / 'one'}"):
        resolve(str(tmp_path), "model.teacher")


def test_a_list_in_a_message_has_lines_of_its_own() -> None:
    assert str(UserError("these:\n  a\n", key="k", hint="put it back")) == "k: these:\n  a\nput it back."


def test_anything_else_is_a_hub_id() -> None:
    assert resolve("bert-base-uncased", "k") == "bert-base-uncased"
    assert resolve("nreimers/MiniLM-L6-H384-uncased", "k") == "nreimers/MiniLM-L6-H384-uncased"


def test_an_error_names_key_value_problem_and_hint() -> None:
    error = UserError("must be greater than 0", key="temperature", value=0, hint="try 2")
    assert str(error) == "temperature = 0: must be greater than 0. try 2."
    assert str(error.within("model.losses.0")) == "model.losses.0.temperature = 0: must be greater than 0. try 2."
    assert error.within("temperature") is error


def test_the_nearest_names_are_given_or_some_of_the_known() -> None:
    assert nearest("hintn", ["hinton", "dkd"]) == "did you mean 'hinton'?"
    assert nearest("zzz", ["hinton", "fitnet"]) == "known are 'fitnet', 'hinton'"


def test_a_name_among_local_runs_is_not_looked_for_on_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert resolve("runs/nope", "model.teacher") == "runs/nope"
    Run.create("runs", "mine", {}, "one")
    with pytest.raises(UserError, match=r"model\.teacher = 'runs/nope': no such folder"):
        resolve("runs/nope", "model.teacher")
    assert resolve("others/nope", "model.teacher") == "others/nope"


def test_a_home_stands_for_itself_and_that_of_nobody_for_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert at_home("~/runs") == tmp_path / "runs"
    assert at_home("~nobody-of-this-name/runs") == Path("~nobody-of-this-name/runs")
    check_folder("~/runs", "runs")
    with pytest.raises(UserError, match="runs = '~nobody-of-this-name/runs': there is no such user"):
        check_folder("~nobody-of-this-name/runs", "runs")
    assert with_defaults({"runs": "~/runs"})["runs"] == f"{tmp_path}/runs"
