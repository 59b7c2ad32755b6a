"""Checkpoints of a run whose student is sharded: a folder with a sealed file of every rank, each written by its own.

A rank's file holds its part of the weights and of the optimizer's moments; rank 0's holds all else too. The folder
counts only where the files of all ranks are there, whole, and of the same saving.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributed
from torch.distributed.tensor import DTensor, distribute_tensor

from distill.checkpoint import PARTS, SHARD, Damaged, SafeCheckpointIO, read, remove, shard_path

__all__ = ["ShardedCheckpointIO", "dealt", "localized"]


def localized(value: Any) -> Any:
    """``value`` with this rank's part, marked as such, in place of every sharded tensor in it."""
    if isinstance(value, DTensor):
        return {SHARD: value.to_local().detach()}
    if isinstance(value, dict):
        made = type(value)() if type(value) is not dict else {}
        made.update((name, localized(item)) for name, item in value.items())
        return made
    if type(value) in (list, tuple):
        return type(value)(localized(item) for item in value)
    return value


def dealt(value: Any, like: Tensor) -> Any:
    """``value`` of a checkpoint, this rank's part or the whole tensor, sharded as ``like`` is."""
    if not isinstance(like, DTensor):
        return value
    if isinstance(value, dict):
        mesh, placements = like.device_mesh, like.placements
        local = value[SHARD].to(like.device)
        return DTensor.from_local(local, mesh, placements, run_check=False, shape=like.shape, stride=like.stride())
    # Every rank has read the whole: nothing has to be sent.
    return distribute_tensor(value.to(like.device), like.device_mesh, like.placements, src_data_rank=None)


class ShardedCheckpointIO(SafeCheckpointIO):
    """Writes the checkpoints of a sharded run: each rank its own file, in the background, as its base class does.

    Saving, loading and :meth:`settle` are for all ranks together. What is to be done once a checkpoint is on the disk,
    such as removing an older one, waits until all ranks know that all of it is there: for the next of these calls. Of
    one that some rank could not write nothing is left.
    """

    def __init__(self) -> None:
        super().__init__()
        self._then: list[Callable[[], object]] = []
        self._newest: Path | None = None

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        self.settle()
        rank, self._newest = distributed.get_rank(), Path(path)
        saving = [uuid.uuid4().hex]
        distributed.broadcast_object_list(saving)
        mine = checkpoint if rank == 0 else {name: checkpoint[name] for name in PARTS if name in checkpoint}
        label = {"rank": rank, "ranks": distributed.get_world_size(), "saving": saving[0]}
        super().save_checkpoint({**localized(mine), SHARD: label}, shard_path(path, rank))

    def load_checkpoint(self, path: Any, map_location: Any = "cpu", weights_only: bool | None = None) -> dict[str, Any]:
        """This rank's part of what a folder holds; the whole where it is a file, or there were more or fewer ranks.

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
        if _any(trouble is not None):
            raise trouble or Damaged(f"{path} is not whole, as another rank finds")
        return found

    def then(self, action: Callable[[], object]) -> None:
        self._then.append(action)

    def settle(self) -> None:
        self.flush()
        if not distributed.is_initialized():
            return
        actions, self._then = self._then, []
        if not _any(self._failed):
            for action in actions:  # at once: no rank begins with a newer one before
                action()
        elif self._newest is not None and distributed.get_rank() == 0:
            remove(self._newest)


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
    if SHARD not in first or first[SHARD]["ranks"] != world:
        return read(path)
    own = read(shard_path(path, rank)) if rank else first
    if own[SHARD]["saving"] != first[SHARD]["saving"]:
        raise Damaged(f"{path} holds parts of two checkpoints")
    return first | {name: own[name] for name in PARTS if name in own}
