"""Reading the ``.wandb`` files that W&B writes on the disk, also one that was cut off by a kill."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

__all__ = ["history", "records"]

_MAGIC = b":W&B"
_HEADER, _PART, _BLOCK = 7, 7, 32768
_WHOLE, _FIRST, _MIDDLE, _LAST = 1, 2, 3, 4


def records(path: str | Path) -> Iterator[Any]:
    """The records of a file, each a ``wandb.proto.wandb_internal_pb2.Record``; those that are cut off are not there.

    After a header of 7 bytes the file is a sequence of blocks of 32 KiB. A record lies in one part, or in several that
    may be in different blocks; a part begins with its checksum (4 bytes), length (2) and kind (1), little-endian. Fewer
    than 7 bytes at the end of a block are padding.
    """
    from wandb.proto.wandb_internal_pb2 import Record  # type: ignore[attr-defined]

    for data in _joined(Path(path).read_bytes()):
        record = Record()
        record.ParseFromString(data)
        yield record


def _joined(data: bytes) -> Iterator[bytes]:
    """The records' bytes, put together from their parts."""
    if data[: len(_MAGIC)] != _MAGIC:
        return
    position, parts = _HEADER, b""
    while True:
        left = _BLOCK - position % _BLOCK
        if left < _PART:
            position += left
        begin = position + _PART
        length, kind = int.from_bytes(data[position + 4 : position + 6], "little"), data[position + 6 : begin]
        position = begin + length
        if not kind or not _WHOLE <= kind[0] <= _LAST or position > len(data):
            return
        if kind[0] in (_WHOLE, _FIRST):
            parts = b""
        parts += data[begin:position]
        if kind[0] in (_WHOLE, _LAST):
            yield parts


def history(path: str | Path) -> Iterator[dict[str, Any]]:
    """The rows that were logged to a file, in order, with W&B's own ``_step``, ``_timestamp`` and ``_runtime``."""
    for record in records(path):
        if record.WhichOneof("record_type") == "history":
            yield {item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
