"""The folder of a run."""

from __future__ import annotations

import json
import os
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from distill.config.files import read_file
from distill.core.utils.errors import UserError
from distill.run.folder import Run
from distill.run.run_id import new_id

CONFIG = {"name": "mine", "model": {"teacher": "x", "hub_token": "s3cret"}, "lr": 1e-5}


def test_an_id_sorts_by_time_and_is_no_one_elses() -> None:
    assert re.fullmatch(r"\d{8}-\d{6}-[0-9a-f]{4}", new_id())


def test_a_run_has_its_folder_and_its_configuration_without_secrets(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "runs", "mine", CONFIG)
    assert run.folder == tmp_path / "runs" / "mine" / run.id
    assert run.config == {"name": "mine", "model": {"teacher": "x", "hub_token": "***"}, "lr": 1e-5}
    assert "s3cret" not in run.config_file.read_text()
    assert read_file(run.config_file)["lr"] == 1e-5


def test_a_planned_run_writes_nothing(tmp_path: Path) -> None:
    Run.plan(tmp_path / "runs", "mine")
    assert not any(tmp_path.iterdir())


def test_a_folder_that_exists_is_refused(tmp_path: Path) -> None:
    run = Run.create(tmp_path, "mine", CONFIG, "one")
    with pytest.raises(UserError, match="exists"):
        Run.create(tmp_path, "mine", {}, "one")
    again = Run(run.folder)
    with pytest.raises(UserError, match="exists"):
        again.begin({})
    assert run.config["name"] == "mine"


@pytest.mark.parametrize("name", ["", "a/b", "..", ".hidden", "a b", "/tmp"])
def test_a_name_that_is_no_folders_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match="folder's name"):
        Run.plan(tmp_path, name)
    with pytest.raises(UserError, match="folder's name"):
        Run.plan(tmp_path, "mine", name)


def test_an_existing_run_is_opened_by_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    created = Run.create(tmp_path, "mine", CONFIG, "one")
    monkeypatch.chdir(tmp_path)
    opened = Run.open("mine/one")
    assert (opened.name, opened.id, opened.config) == ("mine", "one", created.config)
    assert opened.folder.is_absolute()


def test_what_is_no_run_is_refused_with_the_runs_there_are(tmp_path: Path) -> None:
    Run.create(tmp_path, "mine", CONFIG, "one")
    with pytest.raises(UserError, match=r"no such folder.*mine/one"):
        Run.open(tmp_path / "mine" / "two")
    with pytest.raises(UserError, match=r"no config\.yaml.*mine/one"):
        Run.open(tmp_path / "mine")


def test_results_are_kept(tmp_path: Path) -> None:
    run = Run.create(tmp_path, "mine", CONFIG)
    with pytest.raises(UserError, match="has not finished"):
        _ = run.result
    run.write_result({"a": 0.1})
    assert Run.open(run.folder).result == {"a": 0.1}
    assert not list(run.folder.glob(".*"))


def test_a_run_with_nothing_to_keep_leaves_no_trace(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "runs", "mine", CONFIG)
    run.discard()
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("place", [(os, "replace"), (Path, "rename"), (os, "fsync")], ids=lambda place: str(place[1]))
@pytest.mark.parametrize("calls", range(8))
def test_a_run_that_is_killed_as_it_begins_is_there_with_all_it_knows_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: tuple[Any, str], calls: int
) -> None:
    owner, name = place
    original, left = getattr(owner, name), iter(range(calls))

    def doomed(*given: Any, **named: Any) -> Any:
        if next(left, None) is None:
            raise SystemExit(-9)
        return original(*given, **named)

    run = Run.plan(tmp_path / "runs", "mine", "one")
    with monkeypatch.context() as until_death, suppress(SystemExit):
        until_death.setattr(owner, name, doomed)
        until_death.setattr("shutil.rmtree", lambda *_, **__: None)  # who is killed clears nothing
        run.begin(CONFIG, {"recipe": "own"})
    if not run.folder.exists():
        Run.plan(tmp_path / "runs", "mine", "one").begin(CONFIG, {"recipe": "own"})
    found = Run.open(run.folder)
    assert (found.id, found.copy_of, found.config["name"]) == ("one", "", "mine")
    assert json.loads(found.plan_file.read_text())["recipe"] == "own"
    assert {path.name for path in run.folder.iterdir()} == {"config.yaml", "plan.json"}


def test_a_run_that_is_killed_as_it_is_removed_is_there_as_a_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run.create(tmp_path, "mine", CONFIG, "one")
    with monkeypatch.context() as killed:
        killed.setattr("shutil.rmtree", lambda *_, **__: None)
        run.discard()
    assert not run.folder.exists()
    Run.create(tmp_path, "mine", CONFIG, "two")
    assert [path.name for path in run.folder.parent.iterdir()] == ["two"]


def test_what_another_process_made_in_the_meantime_is_not_replaced(tmp_path: Path) -> None:
    run = Run.plan(tmp_path, "mine", "one")
    making = run.made({}, "distill quantize")
    making.__enter__().write_result({})
    Run.create(tmp_path, "mine", CONFIG, "one")
    with pytest.raises(UserError, match="exists"):
        making.__exit__(None, None, None)
    assert run.config["name"] == "mine"
    assert not run.result_file.exists()
    assert [path.name for path in run.folder.parent.iterdir()] == ["one"]


def test_a_folder_that_was_there_before_the_run_stays(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    Run.create(tmp_path / "runs", "mine", CONFIG).discard()
    assert [path.name for path in tmp_path.rglob("*")] == ["runs"]


def test_a_run_with_a_checkpoint_is_never_removed(tmp_path: Path) -> None:
    run = Run.create(tmp_path, "mine", CONFIG)
    run.checkpoints.mkdir()
    (run.checkpoints / "last.ckpt").touch()
    run.discard()
    assert run.config_file.is_file()


def test_a_folder_that_a_killed_save_has_left_is_in_nobodys_way(tmp_path: Path) -> None:
    run = Run.plan(tmp_path, "a", "one")
    with run.made({"seed": 0}, "distill quantize RUN"):
        pass
    (run.folder / ".student.0badcafe.new").mkdir()
    run.refuse_links()
    (run.folder / ".result.json.new").mkdir()  # but where a file is to be written, a folder is refused
    with pytest.raises(UserError, match="is no file, and could not be written"):
        run.refuse_links()
