"""A sharded checkpoint counts only where all of it is there, and an older one stays until then."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Shard, distribute_tensor

from distill.core.utils.errors import TrainingError
from distill.run.checkpoints import file as checkpoint
from distill.run.checkpoints import sealed, shards
from distill.run.checkpoints.file import SHARD, Damaged, SafeCheckpointIO, read, read_header, shard_path, write
from distill.run.checkpoints.shards import ShardedCheckpointIO, local_shards, shard_like

WEIGHT = torch.arange(10.0).reshape(5, 2)  # three rows and two


def save(folder: Path, saving: str = "a", ranks: tuple[int, ...] = (0, 1)) -> Path:
    """As two ranks would."""
    folder.mkdir(exist_ok=True)
    for rank in ranks:
        part = {SHARD: WEIGHT[:3] if rank == 0 else WEIGHT[3:]}
        moments = {"state": {0: {"step": torch.tensor(4.0), "mean": part}}, "param_groups": [{"lr": 0.1}]}
        mine: dict[str, Any] = {"state_dict": {"w": part, "seen": torch.tensor(rank)}, "optimizer_states": [moments]}
        rest = {"global_step": 4} if rank == 0 else {}
        write(mine | rest | {SHARD: {"rank": rank, "ranks": 2, "saving": saving}}, shard_path(folder, rank))
    return folder


def test_the_parts_are_put_together_to_what_one_process_would_have_saved(tmp_path: Path) -> None:
    found = read(save(tmp_path / "last-4.ckpt"))
    assert found.keys() == {"state_dict", "optimizer_states", "global_step"}
    assert torch.equal(found["state_dict"]["w"], WEIGHT)
    assert torch.equal(found["optimizer_states"][0]["state"][0]["mean"], WEIGHT)
    assert found["optimizer_states"][0]["param_groups"] == [{"lr": 0.1}]
    assert found["state_dict"]["seen"] == 0
    assert read_header(tmp_path / "last-4.ckpt")["global_step"] == 4


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("trouble", ["missing", "cut", "of another saving"])
def test_a_folder_that_is_incomplete_is_damaged(trouble: str, rank: int, tmp_path: Path) -> None:
    folder = save(tmp_path / "last-4.ckpt")
    path = shard_path(folder, rank)
    if trouble == "missing":
        path.unlink()
    elif trouble == "cut":
        path.write_bytes(path.read_bytes()[:-100])
    else:
        save(folder, "b", (rank,))
    for way in (read, read_header):
        with pytest.raises(Damaged):
            way(folder)


def test_an_empty_folder_and_a_single_file_in_a_folder_are_damaged(tmp_path: Path) -> None:
    with pytest.raises(Damaged):
        read(tmp_path)
    write({"state_dict": {}}, shard_path(tmp_path, 0))
    with pytest.raises(Damaged):
        read(tmp_path)


@pytest.mark.parametrize(
    "label",
    [1, {}, {"ranks": "2", "saving": "a"}, {"ranks": True, "saving": "a"}, {"ranks": 0, "saving": "a"}, {"ranks": 2}],
)
@pytest.mark.parametrize("rank", [0, 1])
def test_a_sealed_part_that_says_nothing_of_use_is_damaged(
    rank: int, label: Any, mesh: DeviceMesh, tmp_path: Path
) -> None:
    folder = save(tmp_path / "last-4.ckpt")
    write({"state_dict": {}, SHARD: label}, shard_path(folder, rank))
    ways: tuple[Callable[[Path], Any], ...] = (read, read_header, ShardedCheckpointIO().load_checkpoint)
    for way in ways:
        with pytest.raises(Damaged):
            way(folder)


@pytest.mark.parametrize("state", [{}, {"w": WEIGHT}, {"w": {SHARD: torch.ones(2, 7)}}, None])
def test_sealed_parts_that_do_not_fit_together_are_damaged(state: Any, tmp_path: Path) -> None:
    folder = save(tmp_path / "last-4.ckpt")
    label = {"rank": 1, "ranks": 2, "saving": "a"}
    write({"state_dict": state, "optimizer_states": [], SHARD: label}, shard_path(folder, 1))
    with pytest.raises(Damaged, match="do not fit together"):
        read(folder)


def test_a_part_and_the_whole_are_sharded_as_the_weight_is(mesh: DeviceMesh) -> None:
    like = distribute_tensor(torch.zeros(5, 2), mesh["data_parallel"], [Shard(0)])
    for value in (local_shards(distribute_tensor(WEIGHT, mesh["data_parallel"], [Shard(0)])), WEIGHT):
        made = shard_like(value, like)
        assert isinstance(made, DTensor)
        assert made.placements == like.placements
        assert torch.equal(made.full_tensor(), WEIGHT)
    assert shard_like(WEIGHT, torch.zeros(5, 2)) is WEIGHT


def test_another_number_of_ranks_and_another_strategy_are_read_as_the_whole(mesh: DeviceMesh, tmp_path: Path) -> None:
    writer = ShardedCheckpointIO()
    write({"state_dict": {"w": WEIGHT}}, tmp_path / "file.ckpt")
    for path in (save(tmp_path / "last-4.ckpt"), tmp_path / "file.ckpt"):
        assert torch.equal(writer.load_checkpoint(path)["state_dict"]["w"], WEIGHT)


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether another rank, at each time that the ranks agree, could not write."""
    told: list[bool] = []
    monkeypatch.setattr(shards, "_any", lambda flag: flag or bool(told and told.pop(0)))
    return told


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_an_older_one_is_removed_when_all_ranks_have_the_newer_one(
    mesh: DeviceMesh, failing: list[bool], tmp_path: Path
) -> None:
    writer = ShardedCheckpointIO()
    for step in (1, 2):
        writer.save_checkpoint({"state_dict": {"w": WEIGHT}}, tmp_path / f"best-{step}.ckpt")
    writer.remove_checkpoint(tmp_path / "best-1.ckpt")
    writer.flush()  # this rank has written; of the others it knows nothing yet
    assert names(tmp_path)[1:] == ["best-1.ckpt"]
    assert names(tmp_path)[0].startswith(".best-2.ckpt.")
    writer.settle()
    assert names(tmp_path) == ["best-2.ckpt"]
    writer.teardown()


def test_of_one_that_another_rank_could_not_write_nothing_is_left_and_the_older_one_stays(
    mesh: DeviceMesh, failing: list[bool], tmp_path: Path
) -> None:
    writer = ShardedCheckpointIO()
    for step in (1, 2):
        writer.save_checkpoint({"state_dict": {"w": WEIGHT}}, tmp_path / f"best-{step}.ckpt")
    writer.remove_checkpoint(tmp_path / "best-1.ckpt")
    failing.append(True)
    writer.settle()
    assert names(tmp_path) == ["best-1.ckpt"]
    writer.save_checkpoint({"state_dict": {"w": WEIGHT}}, tmp_path / "best-3.ckpt")
    writer.settle()
    assert names(tmp_path) == ["best-1.ckpt", "best-3.ckpt"]
    writer.teardown()


def test_the_checkpoint_of_a_name_stays_when_the_next_of_that_name_cannot_be_written(
    mesh: DeviceMesh, failing: list[bool], tmp_path: Path
) -> None:
    writer = ShardedCheckpointIO()
    writer.save_checkpoint({"state_dict": {"w": WEIGHT}}, tmp_path / "last-8.ckpt")
    writer.settle()
    writer.save_checkpoint({"state_dict": {"w": WEIGHT + 1}}, tmp_path / "last-8.ckpt")
    writer.flush()
    assert torch.equal(read(tmp_path / "last-8.ckpt")["state_dict"]["w"], WEIGHT)
    failing.append(True)
    writer.settle()
    assert names(tmp_path) == ["last-8.ckpt"]
    assert torch.equal(read(tmp_path / "last-8.ckpt")["state_dict"]["w"], WEIGHT)
    writer.save_checkpoint({"state_dict": {"w": WEIGHT + 2}}, tmp_path / "last-8.ckpt")
    writer.settle()
    assert names(tmp_path) == ["last-8.ckpt"]
    assert torch.equal(read(tmp_path / "last-8.ckpt")["state_dict"]["w"], WEIGHT + 2)


def test_a_folder_takes_the_place_of_a_file_of_its_name_and_a_file_that_of_a_folder(
    mesh: DeviceMesh, tmp_path: Path
) -> None:
    for value, writer in enumerate((SafeCheckpointIO(), ShardedCheckpointIO(), SafeCheckpointIO())):
        writer.save_checkpoint({"state_dict": {"w": WEIGHT + value}}, tmp_path / "last-8.ckpt")
        writer.teardown()
        assert names(tmp_path) == ["last-8.ckpt"]
        assert (tmp_path / "last-8.ckpt").is_dir() == isinstance(writer, ShardedCheckpointIO)
        assert torch.equal(read(tmp_path / "last-8.ckpt")["state_dict"]["w"], WEIGHT + value)


def test_the_place_of_a_checkpoint_that_cannot_be_moved_there_is_as_it_was(
    mesh: DeviceMesh, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    writer, replace = ShardedCheckpointIO(), os.replace
    writer.save_checkpoint({"state_dict": {"w": WEIGHT}}, tmp_path / "last-8.ckpt")
    writer.settle()

    def refuse(source: Path, target: Path) -> None:
        if Path(target).name == "last-8.ckpt" and "-0." not in Path(source).name and first.pop():
            raise PermissionError(13, "Permission denied")
        replace(source, target)

    first = [False, True]  # the old one may be put back
    writer.save_checkpoint({"state_dict": {"w": WEIGHT + 1}}, tmp_path / "last-8.ckpt")
    writer.flush()
    monkeypatch.setattr(os, "replace", refuse)
    writer.settle()
    assert "Permission denied" in caplog.text
    assert names(tmp_path) == ["last-8.ckpt"]
    assert torch.equal(read(tmp_path / "last-8.ckpt")["state_dict"]["w"], WEIGHT)


def test_the_name_of_a_new_checkpoint_is_on_the_disk(
    mesh: DeviceMesh, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[Path, list[str]] = {}
    monkeypatch.setattr(sealed, "sync", lambda path: seen.update({path: names(path)}))
    writer = ShardedCheckpointIO()
    writer.save_checkpoint({"state_dict": {"w": WEIGHT}}, tmp_path / "last-8.ckpt")
    writer.settle()
    assert seen[tmp_path] == ["last-8.ckpt"]


def test_a_rank_that_cannot_save_for_another_reason_stops_all_and_nothing_is_left(
    mesh: DeviceMesh, failing: list[bool], tmp_path: Path
) -> None:
    writer = ShardedCheckpointIO()
    failing += [False, False, True]  # all are ready; one meets what cannot be saved
    with pytest.raises(TrainingError, match="another rank"):
        writer.save_checkpoint({"state_dict": {"w": WEIGHT}}, tmp_path / "last-8.ckpt")
    failing.append(True)
    writer.settle()
    assert names(tmp_path) == []
    with pytest.raises(TrainingError, match=r"callbacks.Mine, a numpy.float64"):
        writer.save_checkpoint({"callbacks": {"Mine": numpy.float64(1)}}, tmp_path / "last-8.ckpt")
    writer.settle()
    assert names(tmp_path) == []


def test_a_rank_whose_writing_broke_is_heard_of_before_it_is_raised(
    mesh: DeviceMesh, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[bool] = []
    monkeypatch.setattr(shards, "_any", lambda flag: told.append(flag) or flag)
    monkeypatch.setattr(checkpoint, "write", lambda *_: 1 / 0)
    writer = ShardedCheckpointIO()
    writer.save_checkpoint({"state_dict": {"w": WEIGHT}}, tmp_path / "last-8.ckpt")
    with pytest.raises(ZeroDivisionError):
        writer.settle()
    assert told[-1] is True
    assert names(tmp_path) == []


def test_what_another_rank_finds_damaged_is_damaged_on_this_one_too(
    mesh: DeviceMesh, failing: list[bool], tmp_path: Path
) -> None:
    writer = ShardedCheckpointIO()
    writer.save_checkpoint({"state_dict": {"w": WEIGHT}}, tmp_path / "best-1.ckpt")
    failing += [False, False, False, True]  # all have written it, and it is there; one cannot read its part
    with pytest.raises(Damaged, match="another rank"):
        writer.load_checkpoint(tmp_path / "best-1.ckpt")
    assert torch.equal(writer.load_checkpoint(tmp_path / "best-1.ckpt")["state_dict"]["w"], WEIGHT)
    writer.teardown()
