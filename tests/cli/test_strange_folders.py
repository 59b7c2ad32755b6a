"""A run's folder and a configuration from a stranger: nothing outside of the run is written, cut or removed."""

from __future__ import annotations

import contextlib
import functools
import inspect
import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lightning_fabric.plugins
import lightning_fabric.strategies
import pytest
import pytorch_lightning.callbacks
import pytorch_lightning.plugins
import pytorch_lightning.profilers
import pytorch_lightning.strategies
import pytorch_lightning.tuner

import distill.callbacks
import distill.workflows.timeline
from distill.compression.sensitivity import scan as scanning
from distill.core.utils.errors import UserError
from distill.run.boundary import is_path_key, refuse_links, refuse_paths, without_paths
from distill.run.lock import held, locked

Distill = Callable[..., Any]

FILES = (".lock", ".config.yaml.new", ".result.json.new", ".plan.json.new", ".metrics.csv.new", ".timeline.png.new")
PLACES = ("checkpoints", "student", "exports", "sensitivity", "tensorboard", "wandb")


def snapshot(folder: Path) -> dict[str, bytes | str]:
    """All that lies in a folder, by its path."""
    found: dict[str, bytes | str] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        found[name] = os.readlink(path) if path.is_symlink() else path.read_bytes() if path.is_file() else "folder"
    return found


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A folder of the user's with a file and what looks like something half written."""
    folder = tmp_path / "outside"
    folder.mkdir()
    (folder / "mine.txt").write_text("precious")
    (folder / ".mine.new").mkdir()
    (folder / ".mine.new" / "deep.txt").write_text("precious too")
    (folder / "last-9.ckpt").write_text("not a checkpoint")
    return folder


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, recipe: dict[str, Any]) -> Path:
    """A finished run that tests copy."""
    from distill.config.files import long_form
    from distill.workflows.fit import fit

    with contextlib.chdir(tmp_path_factory.mktemp("whole")):
        return fit({**long_form(recipe), "name": "base"}, run_id="one").folder.resolve()


@pytest.fixture
def finished(whole: Path, base: dict[str, Any]) -> Path:
    """It, as if it had been trained here."""
    run = Path(shutil.copytree(whole, RUN))
    plan = (run / "plan.json").read_text()
    (run / "plan.json").write_text(plan.replace(str(whole), str(run.resolve())))
    return run


RUN = "runs/base/one"
GO_ON = (("resume", RUN, "--max-steps", "4"), ("fit", "-c", "base.yaml", "--id", "one", "--resume", "auto"))
WRITE = (*GO_ON, ("export", RUN, "--to", "hf"), ("sensitivity", RUN, "--samples", "4"))
READ = (
    ("validate", RUN),
    ("quantize", RUN, "--calibrate", "8"),
    ("export", RUN, "--to", "hf", "--output", "exported"),
    ("sensitivity", RUN, "--samples", "4", "--output", "scanned"),
    ("fit", "-c", "base.yaml", "--id", "next", "--from", RUN),
    ("runs",),
    ("runs", "--compare", RUN, RUN),
)
REFUSED = (
    ("test", RUN),  # there are no data for it
    ("fit", "-c", "base.yaml", "--id", "one"),
    ("fit", "-c", "base.yaml", "--beside", RUN),  # it had a teacher
)


def test_no_command_writes_through_a_link(finished: Path, outside: Path, distill: Distill) -> None:
    before = snapshot(outside)
    whole = snapshot(finished)
    planted = [(name, outside / "mine.txt") for name in FILES] + [(name, outside) for name in PLACES]
    planted += [(name, outside / "absent") for name in (".lock", "checkpoints")]
    planted += [("checkpoints/deeper", outside), ("checkpoints/last-4.ckpt", outside / "mine.txt")]
    for name, leads_to in planted:
        path = finished / name
        aside = finished.parent / "aside"
        if os.path.lexists(path):
            path.rename(aside)
        path.symlink_to(os.path.relpath(leads_to, path.parent))
        for argv in WRITE if name in PLACES[:2] else GO_ON:
            code, _, err = distill(*argv)
            assert code == 2, (argv, name, err)
            assert argv not in GO_ON or f"{name} = " in err, err
        path.unlink()
        if aside.exists():
            aside.rename(path)
        assert snapshot(outside) == before, name
        assert {n: c for n, c in snapshot(finished).items() if n != ".lock"} == {
            n: c for n, c in whole.items() if n != ".lock"
        }, name


@pytest.mark.parametrize(
    "dangling", [pytest.param(False, marks=pytest.mark.slow), True], ids=["to what is there", "to nothing"]
)
def test_all_commands_leave_what_is_behind_links_as_it_is(
    dangling: bool, finished: Path, outside: Path, distill: Distill, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a run all of whose entries are links out of it; those that only read may follow them."""
    monkeypatch.setattr(scanning, "scan", functools.partial(scanning.scan, sparsities=(0.8,), bits=(6,)))
    made = [path for path in finished.iterdir() if path.name != ".lock"]
    (finished / ".lock").unlink()
    for path in made:
        shutil.copytree(path, outside / path.name) if path.is_dir() else shutil.copy(path, outside)
        shutil.rmtree(path) if path.is_dir() else path.unlink()
        keep = path.name == "config.yaml" or not dangling
        path.symlink_to(outside / (path.name if keep else "absent"))
    for name in ({*FILES, *PLACES, "failure.json"} - {path.name for path in made}) | {"wandb"}:
        (finished / name).unlink(missing_ok=True)
        (finished / name).symlink_to(outside / ("absent" if dangling else "" if name in PLACES else "mine.txt"))
    before, links = snapshot(outside), snapshot(finished)
    for argv in (*READ, *REFUSED, *WRITE):
        code, _, err = distill(*argv)
        wanted = 0 if argv[0] == "runs" or (argv in READ and not dangling) else 2
        assert code == wanted, (argv, code, err)
        assert snapshot(outside) == before, argv
        assert snapshot(finished) == links, argv


def test_nothing_is_made_behind_a_link_that_stands_where_a_run_would_be(
    finished: Path, outside: Path, distill: Distill
) -> None:
    before = snapshot(outside)
    for place in ("runs/base/new", "runs/base-quantized/new"):
        Path(place).parent.mkdir(exist_ok=True)
        Path(place).symlink_to(outside / "absent")
    for argv in (
        ("fit", "-c", "base.yaml", "--id", "new"),
        ("fit", "-c", "base.yaml", "--id", "new", "--resume", "auto"),
        ("quantize", str(finished), "--id", "new"),
    ):
        code, _, err = distill(*argv)
        assert (code, "exists" in err) == (2, True), (argv, err)
    assert snapshot(outside) == before


def test_a_sweep_writes_through_no_link(finished: Path, outside: Path, distill: Distill) -> None:
    Path("lr.yaml").write_text("{name: lr, method: grid, parameters: {model.optimizer.lr: {values: [1e-3]}}}")
    shutil.copytree(finished, "runs/lr/trial-0001")  # has finished, so that no process begins
    recorded = {
        "recipe": {"files": ["base.yaml"], "allow": [], "overrides": {}},
        "trials": [{"model.optimizer.lr": 1e-3}],
    }
    (outside / "sweep.json").write_text(json.dumps(recorded))
    for name, leads_to in (("sweep.json", outside / "sweep.json"), (".sweep.json.new", outside / "mine.txt")):
        Path("runs/lr", name).symlink_to(leads_to)
    before = snapshot(outside)
    code, _, err = distill("sweep", "lr.yaml", "-c", "base.yaml")
    assert code == 0, err
    assert snapshot(outside) == before
    assert not Path("runs/lr/sweep.json").is_symlink()


@pytest.mark.parametrize(
    "name", [".plan.json.new", ".config.yaml.new", "timeline.png", "failure.json", "checkpoints/.last-4.ckpt.new"]
)
def test_a_folder_where_a_file_is_written_is_refused_or_replaced(name: str, finished: Path, distill: Distill) -> None:
    (finished / name).unlink(missing_ok=True)
    (finished / name).mkdir()
    before = snapshot(finished)
    code, _, err = distill("resume", str(finished), "--max-steps", "4")
    if "/" in name:  # our own, half written, may be a folder
        assert (code, (finished / name).exists()) == (0, False), err
        return
    assert (code, f"{name} = " in err) == (2, True), err
    assert snapshot(finished) | {".lock": b""} == before | {".lock": b""}


def test_what_has_another_name_outside_stays_as_it_was(finished: Path, outside: Path, distill: Distill) -> None:
    names = [".lock", "metrics.csv", "timeline.png", "plan.json", "result.json", ".result.json.new", ".plan.json.new"]
    kept = {}
    for name in names:
        path = finished / name
        if not path.exists():
            path.write_text("left by another program")
        os.link(path, outside / name)
        kept[name] = path.read_bytes()
    code, _, err = distill("resume", str(finished), "--max-steps", "4")
    assert code == 0, err
    assert {name: (outside / name).read_bytes() for name in names} == kept


def test_links_within_a_run_and_a_link_to_the_runs_are_followed(
    finished: Path, tmp_path: Path, distill: Distill
) -> None:
    """W&B makes the former; the latter leads to a larger disk."""
    (finished / "wandb").mkdir()
    (finished / "wandb" / "latest-run").symlink_to("../checkpoints")
    shutil.move("runs", tmp_path / "disk")
    Path("runs").symlink_to(tmp_path / "disk")
    code, _, err = distill("resume", str(finished), "--max-steps", "4")
    assert code == 0, err
    assert (tmp_path / "disk/base/one/checkpoints/last-4.ckpt").is_file()


def test_a_lock_is_taken_through_no_link_and_waits_for_no_pipe(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("precious")
    (tmp_path / ".lock").symlink_to(tmp_path / "mine")
    assert not held(tmp_path / ".lock")
    with pytest.raises(UserError, match="cannot be locked"), locked(tmp_path / ".lock"):
        pass
    assert (tmp_path / "mine").read_text() == "precious"
    os.mkfifo(tmp_path / ".pipe")
    assert not held(tmp_path / ".pipe")


def test_a_link_is_found_however_deep_and_none_is_followed(tmp_path: Path) -> None:
    deep = tmp_path / "run" / Path(*"abcdef")
    deep.mkdir(parents=True)
    (deep / "round").symlink_to(tmp_path / "run")
    refuse_links(tmp_path / "run")
    (deep / "out").symlink_to("../" * 7 + "elsewhere")
    with pytest.raises(UserError, match=r"a/b/c/d/e/f/out .* leads out of the run's folder"):
        refuse_links(tmp_path / "run")


# ---------------------------------------------------------------------- paths in a configuration

NAMESPACES = (
    distill.callbacks,
    distill.workflows.timeline,
    lightning_fabric.plugins,
    lightning_fabric.strategies,
    pytorch_lightning.callbacks,
    pytorch_lightning.plugins,
    pytorch_lightning.profilers,
    pytorch_lightning.strategies,
    pytorch_lightning.tuner,
)
NO_PATHS = frozenset({"profiler", "profiler_kwargs"})


def path_arguments() -> Iterator[tuple[str, str]]:
    """Every argument of a class that a trainer or the callbacks can be given, by whose name it takes a path."""
    classes = {item for space in NAMESPACES for item in vars(space).values() if inspect.isclass(item)}
    for item in sorted(classes, key=lambda c: f"{c.__module__}.{c.__qualname__}"):
        for name in inspect.signature(item.__init__).parameters:
            if any(word in name for word in ("dir", "path", "file", "root", "folder")) and name not in NO_PATHS:
                yield f"{item.__module__}.{item.__qualname__}", name


def test_no_class_is_given_a_place_outside_of_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run = tmp_path / "runs/base/one"
    run.mkdir(parents=True)
    (run / "out").symlink_to(tmp_path)
    found = list(path_arguments())
    assert {("ModelCheckpoint", "dirpath"), ("AdvancedProfiler", "dirpath"), ("DrawTimeline", "path")} <= {
        (path.rpartition(".")[2], name) for path, name in found
    }
    for class_path, name in found:
        for value in ("/etc/x", "~/x", "../x", str(run / "../two"), str(run / "out" / "x")):
            for section, spec in (
                ("callbacks", [{"class_path": class_path, "init_args": {name: value}}]),
                ("trainer", {"profiler": {"class_path": class_path, "dict_kwargs": {name: value}}}),
            ):
                with pytest.raises(UserError, match="leads out of the run's folder") as error:
                    refuse_paths({section: spec}, run)
                assert error.value.key.endswith(name)
        refuse_paths({"callbacks": [{"class_path": class_path, "init_args": {name: str(run / "x")}}]}, run)
        own = {"class_path": "mine.Report", "init_args": {name: "/etc/x"}}
        refuse_paths({"callbacks": [own]}, run, ["mine"])


@pytest.mark.parametrize(
    "arguments",
    [
        ["--callbacks", "[{class_path: ModelCheckpoint, init_args: {dirpath: %s}}]"],
        ["--callbacks", "[{class_path: ModelCheckpoint, init_args: {filename: ../../x}}]"],
        ["--trainer.profiler", "{class_path: SimpleProfiler, init_args: {dirpath: %s, filename: x}}"],
    ],
)
def test_a_configuration_that_leads_out_of_the_run_writes_nothing(
    arguments: list[str], base: dict[str, Any], outside: Path, distill: Distill
) -> None:
    before = snapshot(outside)
    code, _, err = distill("fit", "-c", "base.yaml", *(a.replace("%s", str(outside)) for a in arguments))
    assert code == 2
    assert "leads out of the run's folder" in err
    assert snapshot(outside) == before
    assert not Path("runs").exists()


def test_a_checkpoint_does_not_say_where_a_callback_writes(tmp_path: Path) -> None:
    inside = str(tmp_path / "skip_batches.json")
    planted = {"bad_batches_path": "/etc/x", "steps": 3, "notes_path": inside}
    assert without_paths(planted, tmp_path) == {"bad_batches_path": None, "steps": 3, "notes_path": inside}


def test_an_output_without_a_name_is_not_the_current_folder(finished: Path, distill: Distill) -> None:
    before = snapshot(Path())
    for command in (["sensitivity"], ["export", "--to", "hf"]):
        for output, said in (("", "must not be empty"), (" ", "must name a folder")):
            code, _, err = distill(*command, str(finished), "--output", output)
            assert (code, f"--output = {output!r}: {said}" in err) == (2, True), err
    assert snapshot(Path()) == before


def test_names_of_arguments_that_take_paths_are_known() -> None:
    yes = "dirpath filename default_root_dir save_dir log_dir path files nvme_path output_dir dirs file_path logdir"
    no = "class_path direction rooted profile minutes weight redirect"
    assert [name for name in yes.split() if not is_path_key(name)] == []
    assert [name for name in no.split() if is_path_key(name)] == []


@pytest.mark.parametrize(
    ("key", "value"), [("trainer.devices", "1000000"), ("trainer.devices", '"5000"'), ("data.num_workers", "100000")]
)
def test_a_million_processes_are_refused_before_the_first(
    key: str, value: str, base: dict[str, Any], distill: Distill, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subprocess, "Popen", pytest.fail)
    monkeypatch.setattr(os, "fork", pytest.fail)
    code, _, err = distill("fit", "-c", "base.yaml", f"--{key}", value)
    assert (code, f"{key} = " in err, "are more processes than" in err) == (2, True, True), err
    assert not Path("runs").exists()
