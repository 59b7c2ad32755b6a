"""A sharded checkpoint counts only where all of it is there, and an older one stays until then."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Shard, distribute_tensor

from distill import shards
from distill.checkpoint import SHARD, Damaged, head, read, shard_path, write
from distill.shards import ShardedCheckpointIO, dealt, localized

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
    assert head(tmp_path / "last-4.ckpt")["global_step"] == 4


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("trouble", ["missing", "cut", "of another saving"])
def test_a_folder_that_is_not_whole_is_damaged(trouble: str, rank: int, tmp_path: Path) -> None:
    folder = save(tmp_path / "last-4.ckpt")
    path = shard_path(folder, rank)
    if trouble == "missing":
        path.unlink()
    elif trouble == "cut":
        path.write_bytes(path.read_bytes()[:-100])
    else:
        save(folder, "b", (rank,))
    for way in (read, head):
        with pytest.raises(Damaged):
            way(folder)


def test_an_empty_folder_and_a_single_file_in_a_folder_are_damaged(tmp_path: Path) -> None:
    with pytest.raises(Damaged):
        read(tmp_path)
    write({"state_dict": {}}, shard_path(tmp_path, 0))
    with pytest.raises(Damaged):
        read(tmp_path)


def test_a_part_and_the_whole_are_dealt_as_the_weight_is(mesh: DeviceMesh) -> None:
    like = distribute_tensor(torch.zeros(5, 2), mesh["data_parallel"], [Shard(0)])
    for value in (localized(distribute_tensor(WEIGHT, mesh["data_parallel"], [Shard(0)])), WEIGHT):
        made = dealt(value, like)
        assert isinstance(made, DTensor)
        assert made.placements == like.placements
        assert torch.equal(made.full_tensor(), WEIGHT)
    assert dealt(WEIGHT, torch.zeros(5, 2)) is WEIGHT


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
    assert names(tmp_path) == ["best-1.ckpt", "best-2.ckpt"]
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


def test_what_another_rank_finds_damaged_is_damaged_on_this_one_too(
    mesh: DeviceMesh, failing: list[bool], tmp_path: Path
) -> None:
    writer = ShardedCheckpointIO()
    writer.save_checkpoint({"state_dict": {"w": WEIGHT}}, tmp_path / "best-1.ckpt")
    failing += [False, True]  # all have written it; one cannot read its part
    with pytest.raises(Damaged, match="another rank"):
        writer.load_checkpoint(tmp_path / "best-1.ckpt")
    assert torch.equal(writer.load_checkpoint(tmp_path / "best-1.ckpt")["state_dict"]["w"], WEIGHT)
    writer.teardown()
