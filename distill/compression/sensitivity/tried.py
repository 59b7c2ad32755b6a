"""What a scan has tried, kept on the disk as it goes: the same scan, begun again after a kill, resumes there."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import astuple
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from distill.compression.sensitivity.scan import Point
from distill.core.signals import Batch
from distill.core.utils.files import read, replace

__all__ = ["Tried", "identity"]


def identity(model: nn.Module, batches: Sequence[Batch], metric: str) -> str:
    """A digest of all that the points of a scan depend on: the weights, the data, and the metric."""
    digest = hashlib.sha256(f"{metric} {torch.__version__}".encode())
    for name, tensor in [*model.state_dict().items(), *(item for batch in batches for item in _tensors(batch))]:
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} {tensor.device.type}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def _tensors(batch: Batch) -> Iterator[tuple[str, Tensor]]:
    yield from batch.inputs.items()
    yield from batch.extras.items()
    for name in ("labels", "mask", "tokens"):
        tensor = getattr(batch, name)
        if tensor is not None:
            yield name, tensor


class Tried:
    """The points in ``file``, a line each, below the digest of what they were found with.

    Args:
        file: Made anew where it is of another scan, or not there.
        of: Of this scan: :func:`identity`.
    """

    def __init__(self, file: Path, of: str) -> None:
        self.file = file
        self.points = _known(file, of)
        replace(file, "".join(json.dumps(item) + "\n" for item in [of, *map(astuple, self.points)]).encode())

    def add(self, point: Point) -> None:
        """Keep one more."""
        self.points.append(point)
        with self.file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(astuple(point)) + "\n")

    def find(self, layer: str, kind: str, level: float) -> Point | None:
        """The point that has been tried already, if it has."""
        found = (point for point in self.points if (point.layer, point.kind, point.level) == (layer, kind, level))
        return next(found, None)

    def remove(self) -> None:
        """Of a scan that has ended, there is nothing to resume."""
        self.file.unlink(missing_ok=True)


def _known(file: Path, of: str) -> list[Point]:
    """What is left of an earlier scan, up to the first line that a kill cut off."""
    points: list[Point] = []
    try:
        first, *lines = read(file).decode().splitlines()
        if json.loads(first) != of:
            return []
        for line in lines:
            points.append(_point(json.loads(line)))
    except (OSError, ValueError, TypeError, OverflowError, RecursionError):
        pass
    return points


def _point(values: Any) -> Point:
    layer, weights, kind, level, metric, divergence = values
    level = level if isinstance(level, int) else float(level)  # bits are integers in the table, too
    return Point(str(layer), int(weights), kind, level, float(metric), float(divergence))
