"""Checkpoints: sealed files that are judged before they are opened, and that hold up no step.

That of a run whose student is sharded (``shards.py``) is a folder, with such a file of every rank.
"""

from __future__ import annotations

import logging
import pickle
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.plugins import CheckpointIO

from distill.core.utils.errors import UserError
from distill.core.utils.files import make
from distill.run.checkpoints.bounds import is_dense, is_stored
from distill.run.checkpoints.sealed import is_intact, move_into_place, remove, write
from distill.run.checkpoints.snapshot import snapshot

__all__ = [
    "PARTS",
    "SHARD",
    "Damaged",
    "SafeCheckpointIO",
    "is_intact",
    "move_into_place",
    "read",
    "read_header",
    "remove",
    "shard_label",
    "shard_path",
    "write",
]

_log = logging.getLogger(__name__)


class Damaged(Exception):
    """A checkpoint that is cut off, altered, or not there."""


# ---------------------------------------------------------------------- files


def read(path: str | Path, map_location: Any = "cpu") -> dict[str, Any]:
    """The checkpoint at ``path``, a file or a folder of shards, which are put together; nothing in it is executed.

    Raises:
        Damaged: if it is not intact.
        UserError: if it is, but holds what a checkpoint never does, such as a pickled object.
        OSError: if it cannot be read.
    """
    if not Path(path).is_dir():
        return _read(path, map_location)
    first, *others = _shards(path)
    del first[SHARD]
    try:
        joined = {name: _joined([first[name], *(part[name] for part in others)]) for name in PARTS if name in first}
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise Damaged(f"{path} holds parts that do not fit together") from error
    return first | joined


def read_header(path: str | Path) -> dict[str, Any]:
    """As :func:`read`, but of a folder of shards, all of which are looked at, only what rank 0 wrote; and tensors are
    read when they are used, as Lightning reads the whole once more.

    What is done twice is the hash: 0.54 s of processor time for a checkpoint of 600 MB, which it takes 0.62 s to load.

    Raises:
        Damaged: as :func:`read`, and likewise the others.
    """
    return _shards(path)[0] if Path(path).is_dir() else _read(path, mmap=True)


def _read(path: str | Path, map_location: Any = "cpu", mmap: bool = False) -> dict[str, Any]:
    try:
        intact = is_intact(path)
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        raise Damaged(f"{path} is not there") from None
    if not intact:
        raise Damaged(f"{path} is cut off or was altered")
    if not is_stored(path):
        raise _foreign(path, "unpacks to more than it is")
    try:
        found: dict[str, Any] = torch.load(path, map_location=map_location, weights_only=True, mmap=mmap)
    except (pickle.UnpicklingError, MemoryError) as error:
        raise _foreign(path, "holds more than tensors and plain values") from error
    except OSError:
        raise
    except Exception as error:  # of an archive that is sealed, and yet no checkpoint, torch says so in many ways
        raise _foreign(path, "is no checkpoint") from error
    if not is_dense(found):
        raise _foreign(path, "holds tensors that are larger than it is")
    return found


def _foreign(path: str | Path, problem: str) -> UserError:
    hint = "remove it if it is not yours"
    return UserError(f"{problem}, and is not opened", key="checkpoint", value=str(path), hint=hint)


# ---------------------------------------------------------------------- folders of shards

PARTS = ("state_dict", "optimizer_states")
"""What of a checkpoint every rank writes; all else is rank 0's alone."""

SHARD = "shard"
"""Key of a rank's part of a tensor, cut along its first dimension; and of what a file says of itself: its rank, of
how many, and the name of the saving that all files of a folder have in common."""


def shard_path(folder: str | Path, rank: int) -> Path:
    """Where in ``folder`` a rank's part of the checkpoint lies."""
    return Path(folder) / f"rank-{rank}.ckpt"


def _shards(folder: str | Path) -> list[dict[str, Any]]:
    """The parts of all ranks. Their tensors are read when they are used."""
    first = _read(shard_path(folder, 0), mmap=True)
    ranks, saving = shard_label(first, folder)
    parts = [first]
    for rank in range(1, ranks):
        parts.append(_read(shard_path(folder, rank), mmap=True))
        if shard_label(parts[-1], folder) != (ranks, saving):
            raise Damaged(f"{folder} holds parts of two checkpoints")
    return parts


def shard_label(part: Any, folder: str | Path) -> tuple[int, str]:
    """Of how many ranks ``part`` is one's, and the name of the saving.

    Raises:
        Damaged: if it does not say so.
    """
    said = part.get(SHARD) if isinstance(part, dict) else None
    ranks, saving = (said.get("ranks"), said.get("saving")) if isinstance(said, dict) else (None, None)
    if type(ranks) is not int or ranks < 1 or not isinstance(saving, str):
        raise Damaged(f"{folder} is no folder of shards")
    return ranks, saving


def _joined(parts: Sequence[Any]) -> Any:
    """One value of those of all ranks: shards are put together, and all else is rank 0's."""
    first = parts[0]
    if isinstance(first, dict):
        if not all(isinstance(part, dict) for part in parts):
            raise TypeError("not the same on all ranks")
        if first.keys() == {SHARD}:
            return torch.cat([part[SHARD] for part in parts])
        return {name: _joined([part[name] for part in parts]) for name in first}
    if isinstance(first, (list, tuple)):
        return type(first)(_joined(items) for items in zip(*parts, strict=True))
    return first


# ---------------------------------------------------------------------- Lightning


class SafeCheckpointIO(CheckpointIO):
    """Writes checkpoints in the background, one at a time, as :func:`write` does.

    The step waits for a copy of the tensors only. A checkpoint that cannot be written is reported once, and is then
    not there; training continues, and what was to be removed in its favour stays.
    """

    def __init__(self) -> None:
        self._worker = ThreadPoolExecutor(1, "checkpoint")  # done before the interpreter ends
        self._pending: list[Future[None]] = []
        self._failed = False

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        self.flush()  # never two copies in memory
        self._submit(self._write, snapshot(checkpoint), Path(path))

    def load_checkpoint(self, path: Any, map_location: Any = "cpu", weights_only: bool | None = None) -> dict[str, Any]:
        self.flush()
        return read(path, map_location)

    def remove_checkpoint(self, path: Any) -> None:
        """Remove the file once the checkpoint written last is on the disk; if that failed, leave it."""
        self.then(lambda: remove(Path(path)))

    def then(self, action: Callable[[], object]) -> None:
        """Do ``action`` when the checkpoint written last is on the disk; if that failed, don't."""
        self._submit(self._follow, action)

    def flush(self) -> None:
        """Wait until all is written.

        Raises:
            Exception: whatever a write ended with, other than the trouble with the disk that was reported.
        """
        pending, self._pending = self._pending, []
        for future in pending:
            future.result()

    @property
    def writing(self) -> bool:
        """Whether this rank has still to write something."""
        return not all(future.done() for future in self._pending)

    @property
    def unsettled(self) -> bool:
        """Whether a checkpoint waits for :meth:`settle` to be there; the same on all ranks."""
        return False

    def settle(self) -> None:
        """As :meth:`flush`, on all ranks together."""
        self.flush()

    def teardown(self) -> None:
        self.flush()

    def _submit(self, function: Callable[..., None], *arguments: Any) -> None:
        self._pending.append(self._worker.submit(function, *arguments))

    def _follow(self, action: Callable[[], object]) -> None:
        if not self._failed:
            action()

    def _write(self, checkpoint: dict[str, Any], path: Path) -> None:
        reported, self._failed = self._failed, True
        try:
            make(path.parent)
            write(checkpoint, path)
            self._failed = False
        except OSError as error:
            if not reported:
                self._report(path, error)

    def _report(self, path: Path, error: OSError) -> None:
        folder = path.parent.parent if path.parent.suffix == ".new" else path.parent  # of a rank's file: beside its own
        kept = any(folder.glob("*.ckpt"))
        problem = f"the run continues, {'with the last good one kept' if kept else 'without any as yet'}"
        _log.warning("checkpoint %s could not be written (%s): %s", path, error.strerror or error, problem)
