"""A checkpoint that is not as it was written is not resumed from, and nothing in it is run."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from distill.run.checkpoints import file as checkpoint
from distill.run.checkpoints.file import read, write
from distill.run.checkpoints.names import resume_checkpoints
from distill.run.folder import Run

Distill = Callable[..., Any]
Same = Callable[[Path], None]


class Exploit:
    """Makes a folder as soon as it is unpickled."""

    def __reduce__(self) -> Any:
        return os.mkdir, ("called",)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1000])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def alter(path: Path) -> None:
    """One bit in the middle of a weight."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def plant(path: Path) -> None:
    """A checkpoint whose seal is right, that runs a command when it is unpickled."""
    write(read(path) | {"callbacks": Exploit()}, path)


def test_the_exploit_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write({}, "last-1.ckpt")
    plant(Path("last-1.ckpt"))
    torch.load("last-1.ckpt", weights_only=False)
    assert Path("called").is_dir()


@pytest.mark.parametrize("damage", [cut, empty, alter])
def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(
    damage: Callable[[Path], None],
    run: Path,
    distill: Distill,
    same: Same,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.chdir(tmp_path)
    (last, path), (before, _) = resume_checkpoints(run / "checkpoints").items()
    damage(path)
    code, out, _ = distill("resume", str(run))
    assert code == 0
    assert f"last-{last}.ckpt" in caplog.text
    assert "the one before is taken" in caplog.text
    assert f"from step {before}" in out
    same(run)


def test_a_checkpoint_with_a_pickle_in_it_is_neither_executed_nor_put_aside(
    run: Path, distill: Distill, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    path = next(iter(resume_checkpoints(run / "checkpoints").values()))
    plant(path)
    code, _, err = distill("resume", str(run))
    assert code == 2
    assert path.name in err
    assert "more than tensors and plain values" in err
    assert path.is_file()
    assert not Path("called").exists()


def test_a_checkpoint_that_cannot_be_read_now_is_not_taken_for_a_damaged_one(
    run: Path, distill: Distill, monkeypatch: pytest.MonkeyPatch
) -> None:
    def trouble(path: Path) -> bool:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(checkpoint, "is_intact", trouble)
    before = resume_checkpoints(run / "checkpoints")
    code, _, err = distill("resume", str(run))
    assert code == 2
    assert "Input/output error" in err
    assert resume_checkpoints(run / "checkpoints") == before


def test_where_all_checkpoints_are_damaged_the_run_begins_again(run: Path, distill: Distill, same: Same) -> None:
    for path in resume_checkpoints(run / "checkpoints").values():
        cut(path)
    code, out, _ = distill("resume", str(run))
    assert code == 0
    assert "from step 0" in out
    same(run)


def best_of_a_run(run: Path, world: Any) -> Any:
    """A best checkpoint, under the name of a last one."""
    return read(world.whole / "checkpoints/best-12.ckpt")


def a_list(run: Path, world: Any) -> Any:
    return [1]


def of_one_key(run: Path, world: Any) -> Any:
    return {"config": "name: base"}


def without_a_counter(run: Path, world: Any) -> Any:
    whole = read(next(iter(resume_checkpoints(run / "checkpoints").values())))
    return whole | {"loops": {}}


def of_other_kinds(**entries: Any) -> Callable[[Path, Any], Any]:
    """A checkpoint in which these entries are others than a run ever writes."""
    return lambda run, world: read(next(iter(resume_checkpoints(run / "checkpoints").values()))) | entries


OTHERS = [{"config": "[1]"}, {"ranks": [0, 8]}, {"ranks": [1, "8"]}, {"ranks": [1, 0]}, {"global_step": "4"}]


@pytest.mark.parametrize(
    "content", [best_of_a_run, a_list, of_one_key, without_a_counter, *(of_other_kinds(**entry) for entry in OTHERS)]
)
def test_an_intact_file_that_is_no_checkpoint_to_resume_from_is_refused(
    content: Callable[[Path, Any], Any],
    run: Path,
    world: Any,
    distill: Distill,
    hashes: Callable[[Path], dict[str, str]],
) -> None:
    path = run / "checkpoints/last-13.ckpt"
    write(content(run, world), path)
    before = hashes(run)
    code, out, err = distill("resume", str(run))
    assert code == 2
    assert "last-13.ckpt" in err
    assert "is no checkpoint that a run resumes from" in err
    assert "remove it, or begin another run" in err
    assert "Traceback" not in out + err
    assert hashes(run) == before


# ---------------------------------------------------------------------- what a checkpoint may not name


def planted(run: Path, **state: Any) -> None:
    """Checkpoints, intact and sealed, in which the state of the best one is another."""
    for path in resume_checkpoints(run / "checkpoints").values():
        content = read(path)
        [name] = [name for name in content["callbacks"] if name.startswith("BestCheckpoint")]
        content["callbacks"][name] |= state
        write(content, path)


@pytest.mark.parametrize(
    ("score", "climbing"),
    [(-1.0, False), (2.0, True)],
    ids=["a better one comes, and it would be removed", "none is better, and it would be saved"],
)
def test_a_file_outside_of_the_run_is_neither_read_nor_removed(
    score: float,
    climbing: bool,
    run: Path,
    world: Any,
    distill: Distill,
    same: Same,
    caplog: pytest.LogCaptureFixture,
    tmp_path: Path,
) -> None:
    mine = tmp_path / "mine.ckpt"
    content = read(world.whole / "checkpoints/best-12.ckpt")
    for value in content["state_dict"].values():
        value.zero_()
    write(content, mine)
    before = mine.read_bytes()
    named = os.path.relpath(mine, run / "checkpoints") if climbing else str(mine)
    figure = torch.tensor(score)
    planted(
        run,
        **dict.fromkeys(("best_model_path", "kth_best_model_path"), named),
        best_k_models={named: figure},
        dirpath="" if climbing else str(tmp_path),
        **dict.fromkeys(("best_model_score", "current_score", "kth_value"), figure),
    )
    code, _, err = distill("resume", str(run))
    assert code == 0, err
    assert mine.read_bytes() == before
    [told] = [record.getMessage() for record in caplog.records if "not followed" in record.getMessage()]
    assert named in told
    assert not list(run.rglob("mine.ckpt"))
    if score < 0:
        same(run)
    else:
        weights = load_file(run / "student/model.safetensors")
        assert any(value.any() for value in weights.values())


CLASS = {"class_path": "os.mkdir", "init_args": {"path": "called"}}


@pytest.mark.parametrize("place", ["the checkpoints", "config.yaml", "both"])
def test_a_class_that_may_not_be_named_is_refused_wherever_the_run_names_it(
    place: str, run: Path, distill: Distill, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    def with_class(text: str) -> str:
        config = yaml.safe_load(text)
        return yaml.safe_dump(config | {"callbacks": [*config["callbacks"], CLASS]})

    if place != "config.yaml":
        for path in resume_checkpoints(run / "checkpoints").values():
            content = read(path)
            write(content | {"config": with_class(content["config"])}, path)
    if place != "the checkpoints":
        (run / "config.yaml").write_text(with_class((run / "config.yaml").read_text()))
    code, out, err = distill("resume", str(run))
    assert code == 2
    assert "os.mkdir" in err
    assert "Traceback" not in out + err
    assert not Path("called").exists()
    assert not (run / "student").exists()


@pytest.mark.parametrize("check", [7, ["x"], {"unsteady": 7}, {"unsteady": {"student": ["mixes"]}}])
def test_a_plan_in_which_others_wrote_does_not_stop_a_run_at_its_end(
    check: Any, run: Path, distill: Distill, same: Same
) -> None:
    plan = json.loads((run / "plan.json").read_text())
    (run / "plan.json").write_text(json.dumps(plan | {"teacher_check": check}))
    code, _, err = distill("resume", str(run))
    assert code == 0, err
    same(run)
    assert "unsteady" not in Run(run).result["measured"]
