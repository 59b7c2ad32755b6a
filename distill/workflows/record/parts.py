"""Which part of a recording is a process's, and what one of them does for all."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from lightning_fabric.plugins.environments.torchelastic import TorchElasticEnvironment

from distill.core.utils.errors import UserError

__all__ = ["alone", "own_device", "share_of"]


def share_of(part: str | None) -> tuple[int, int]:
    """Which part of how many is this process's, counted from 0."""
    if part is None:
        return (int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])) if TorchElasticEnvironment.detect() else (0, 1)
    number, _, of = part.partition("/")
    if not (number.isdecimal() and of.isdecimal() and 1 <= int(number[:9]) <= int(of[:9])):
        raise UserError("must be I/N, with I from 1 to N", key="--part", value=part, hint="write 1/4, 2/4, ...")
    return int(number) - 1, int(of)


def own_device(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of a Trainer with one device: that of this process, where torchrun has started several.

    Args:
        arguments: The configured ones.
    """
    gpus = torch.cuda.is_available() and arguments.get("accelerator") not in ("cpu", "mps")
    mine = int(os.environ.get("LOCAL_RANK", 0)) if TorchElasticEnvironment.detect() else 0
    return {"devices": [mine] if gpus else 1, "strategy": "auto", "num_nodes": 1}


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Wait until no other process is in such a block of ``folder``.

    Where the file system grants no locks, as some network folders, nothing is waited for.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
