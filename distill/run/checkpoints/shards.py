"""Checkpoints of a run whose student is sharded: a folder with a sealed file of every rank, each written by its own.

A rank's file holds its part of the weights and of the optimizer's moments; rank 0's holds all else too. The folder
counts only where the files of all ranks are there, intact, and of the same saving. It is written under another name
beside its place, and takes that when all ranks have written.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributed
from torch.distributed.tensor import DTensor, distribute_tensor

from distill.core.utils.errors import TrainingError
from distill.run.checkpoints.file import (
    PARTS,
    SHARD,
    Damaged,
    SafeCheckpointIO,
    move_into_place,
    read,
    remove,
    shard_label,
    shard_path,
)

__all__ = ["ShardedCheckpointIO", "local_shards", "shard_like"]


def local_shards(value: Any) -> Any:
    """``value`` with this rank's part, marked as such, in place of every sharded tensor in it."""
    if isinstance(value, DTensor):
        return {SHARD: value.to_local().detach()}
    if isinstance(value, dict):
        made = type(value)() if type(value) is not dict else {}
        made.update((name, local_shards(item)) for name, item in value.items())
        return made
    if type(value) in (list, tuple):
        return type(value)(local_shards(item) for item in value)
    return value


def shard_like(value: Any, like: Tensor) -> Any:
    """``value`` of a checkpoint, this rank's part or the full tensor, sharded as ``like`` is."""
    if not isinstance(like, DTensor):
        return value
    if isinstance(value, dict):
        mesh, placements = like.device_mesh, like.placements
        local = value[SHARD].to(like.device)
        return DTensor.from_local(local, mesh, placements, run_check=False, shape=like.shape, stride=like.stride())
    # Every rank has read all of it: nothing has to be sent.
    return distribute_tensor(value.to(like.device), like.device_mesh, like.placements, src_data_rank=None)


class ShardedCheckpointIO(SafeCheckpointIO):
    """Writes the checkpoints of a sharded run: each rank its own file, in the background, as its base class does.

    Saving, loading and :meth:`settle` are for all ranks together. A checkpoint takes its place, and what is to be done
    then, such as removing an older one, is done, when all ranks know that all of it is on the disk: at the next of
    these calls. Of one that some rank could not write nothing is left, and what was there before stays. What is no
    trouble with a disk and stops one rank stops all.
    """

    def __init__(self) -> None:
        super().__init__()
        self._then: list[Callable[[], object]] = []
        self._newest: tuple[Path, Path] | None = None
        """Where the checkpoint saved last is written, and its place."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        self.settle()
        rank, path, saving = distributed.get_rank(), Path(path), [uuid.uuid4().hex]
        distributed.broadcast_object_list(saving)
        self._newest = path.with_name(f".{path.name}.{saving[0][:8]}.new"), path
        mine = checkpoint if rank == 0 else {name: checkpoint[name] for name in PARTS if name in checkpoint}
        said = {"rank": rank, "ranks": distributed.get_world_size(), "saving": saving[0]}
        part = {**local_shards(mine), SHARD: said}
        trouble = _caught(partial(super().save_checkpoint, part, shard_path(self._newest[0], rank)))
        if trouble is not None:
            self._failed = True
        _stop_all(trouble, TrainingError(f"{path} could not be saved, as another rank finds: its message says why"))

    def load_checkpoint(self, path: Any, map_location: Any = "cpu", weights_only: bool | None = None) -> dict[str, Any]:
        """This rank's part of what a folder holds; all of it where that is a file, or there were more or fewer ranks.

        Raises:
            Damaged: on all ranks, if any of them finds it so, or cannot read its part.
        """
        self.settle()
        found: dict[str, Any] = {}
        trouble: Exception | None = None
        try:
            found = _mine(Path(path))
        except Exception as error:  # whatever it is: the others are told before they wait for this one
            trouble = error
        _stop_all(trouble, Damaged(f"{path} is damaged, as another rank finds"))
        return found

    def then(self, action: Callable[[], object]) -> None:
        self._then.append(action)

    @property
    def unsettled(self) -> bool:
        return self._newest is not None

    def settle(self) -> None:
        if not distributed.is_initialized():
            self.flush()
            return
        trouble = _caught(self.flush)
        newest, self._newest = self._newest, None
        actions, self._then = self._then, []
        failed = _any(self._failed)
        if newest is not None:
            if distributed.get_rank() == 0:
                self._place(*newest, failed)
            failed = _any(failed or self._failed)  # no rank continues before it is there
        if not failed:
            for action in actions:
                trouble = trouble or _caught(action)
        problem = "a checkpoint could not be written, as another rank finds: its message says why"
        _stop_all(trouble, TrainingError(problem))

    def _place(self, fresh: Path, path: Path, failed: bool) -> None:
        if not failed:
            try:
                move_into_place(fresh, path)
                return
            except OSError as error:
                self._failed = True
                self._report(path, error)
        remove(fresh)

    def teardown(self) -> None:
        self.settle()


def _caught(action: Callable[[], object]) -> Exception | None:
    """What ``action`` ended with, if not well."""
    try:
        action()
    except Exception as error:
        return error
    return None


def _stop_all(trouble: Exception | None, otherwise: Exception) -> None:
    """Raise on all ranks what one has met, ``otherwise`` on the others: they would wait for it for ever."""
    if _any(trouble is not None):
        raise trouble or otherwise


def _any(flag: bool) -> bool:
    """Whether ``flag`` is set on any rank."""
    device = "cpu" if distributed.get_backend() == "gloo" else torch.accelerator.current_accelerator()
    flags = torch.tensor(int(flag), device=device)
    distributed.all_reduce(flags, distributed.ReduceOp.MAX)
    return bool(flags)


def _mine(path: Path) -> dict[str, Any]:
    if not path.is_dir():
        return read(path)
    rank, world = distributed.get_rank(), distributed.get_world_size()
    first = read(shard_path(path, 0))
    if shard_label(first, path)[0] != world:
        return read(path)
    own = read(shard_path(path, rank)) if rank else first
    if shard_label(own, path) != shard_label(first, path):
        raise Damaged(f"{path} holds parts of two checkpoints")
    return first | {name: own[name] for name in PARTS if name in own}
