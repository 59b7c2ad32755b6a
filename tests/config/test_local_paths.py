"""The promises of local paths made absolute."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from distill.config.local_paths import absolute_paths


def config(path: Any) -> dict[str, Any]:
    """A configuration with ``path`` wherever a path can stand, and where it is none."""
    return {
        "name": path,
        "runs": path,
        "model": {
            "task": path,
            "teacher": {"path": path, "dtype": path},
            "student": {"path": path, "tokenizer": path, "layers": path, "config": {"model_type": path}},
            "losses": [{"class_path": path, "init_args": {"name": path}}],
        },
        "data": {
            "class_path": path,
            "init_args": {
                "path": path,
                "name": path,
                "tokenizer": path,
                "chat_template": path,
                "files": {"train": path, "test.2": [path, path]},
                "columns": {"text": path},
            },
        },
        "callbacks": [{"class_path": path, "init_args": {"path": path}}],
    }


def places(path: Any, there: Any) -> dict[str, Any]:
    """What :func:`config` is to become."""
    expected = config(path)
    expected["model"]["teacher"]["path"] = there
    expected["model"]["student"] |= {"path": there, "tokenizer": there}
    files = {"train": there, "test.2": [there, there]}
    expected["data"]["init_args"] |= {"path": there, "tokenizer": there, "chat_template": there, "files": files}
    return expected


@pytest.mark.parametrize("path", ["here", "./here", "here/", "inside/../here", "link"])
def test_what_is_there_gets_its_absolute_path_where_paths_stand_and_nowhere_else(tmp_path: Path, path: str) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "inside").mkdir()
    (tmp_path / "link").symlink_to("here")
    given = config(path)
    kept = copy.deepcopy(given)
    assert absolute_paths(given, tmp_path) == places(path, str(tmp_path / "here"))
    assert given == kept


@pytest.mark.parametrize(
    "path", ["", "nowhere", "bert-base-uncased", "google/bert_tiny", "distill:stdlib", "/not/there", "null"]
)
def test_what_is_not_there_stays(tmp_path: Path, path: str) -> None:
    (tmp_path / "distill:stdlib").mkdir()  # the name is the package's all the same
    value = None if path == "null" else path
    assert absolute_paths(config(value), tmp_path) == config(value)


def test_a_folder_goes_before_a_hub_id_of_its_name(tmp_path: Path) -> None:
    (tmp_path / "google/bert_tiny").mkdir(parents=True)
    found = absolute_paths({"model": {"student": "google/bert_tiny"}}, tmp_path)
    assert found == {"model": {"student": str(tmp_path / "google/bert_tiny")}}


def test_each_of_several_teachers_is_looked_for(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    teachers = ["a", "b", {"path": "a", "weight": 2.0}, {"path": "hub/b"}]
    found = absolute_paths({"model": {"teacher": teachers}}, tmp_path)["model"]["teacher"]
    assert found == [str(tmp_path / "a"), "b", {"path": str(tmp_path / "a"), "weight": 2.0}, {"path": "hub/b"}]


def test_the_home_folder_is_written_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home/teacher").mkdir(parents=True)
    found = absolute_paths({"model": {"teacher": "~/teacher"}}, tmp_path / "elsewhere")
    assert found == {"model": {"teacher": str(tmp_path / "home/teacher")}}


def test_done_twice_it_is_done_once(tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    once = absolute_paths(config("here"), tmp_path)
    assert absolute_paths(once, tmp_path / "elsewhere") == once
