"""A ``.wandb`` file is read as far as it goes, wherever a kill has cut it off."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from wandb.proto.wandb_internal_pb2 import Record  # type: ignore[attr-defined]

from distill.run.loggers.wandb_file import history, records

HEADER = b":W&B\x24\xe1\x00"


def record(number: int, size: int) -> bytes:
    """A row whose record is longer than ``size``."""
    row = Record(num=number)
    for key, value in (("loss", number), ("note", "x" * size)):
        row.history.item.add(nested_key=[key], value_json=json.dumps(value))
    written: bytes = row.SerializeToString()
    return written


def written(parts: list[bytes]) -> bytes:
    """The records in blocks of 32 KiB, as the format has it."""
    file = bytearray(HEADER)
    for part in parts:
        first = True
        while first or part:
            left = 32768 - len(file) % 32768
            if left < 7:
                file += b"\0" * left
                continue
            piece, part = part[: left - 7], part[left - 7 :]
            kind = {(True, True): 1, (True, False): 2, (False, False): 3, (False, True): 4}[first, not part]
            file += b"\0" * 4 + len(piece).to_bytes(2, "little") + bytes([kind]) + piece
            first = False
    return bytes(file)


SIZES = (10, 32768 - 200, 3, 100_000, 0, 32768 * 2, 40)


def test_records_are_joined_over_blocks(tmp_path: Path) -> None:
    (tmp_path / "a.wandb").write_bytes(written([record(n, size) for n, size in enumerate(SIZES)]))
    rows = list(history(tmp_path / "a.wandb"))
    assert [(row["loss"], len(row["note"])) for row in rows] == list(enumerate(SIZES))


@pytest.mark.parametrize("left", range(15))
def test_few_bytes_at_the_end_of_a_block_are_padding(left: int, tmp_path: Path) -> None:
    first = record(0, 32768 - 7 - 7 - left - len(record(0, 30_000)) + 30_000)
    data = written([first, record(1, 5)])
    assert 32768 - (7 + 7 + len(first)) == left
    (tmp_path / "a.wandb").write_bytes(data)
    assert [row["loss"] for row in history(tmp_path / "a.wandb")] == [0, 1]


def test_a_file_that_was_cut_off_gives_what_is_complete(tmp_path: Path) -> None:
    parts = [record(n, size) for n, size in enumerate((5, 60, 32768 - 500, 200, 700))]
    data, file = written(parts), tmp_path / "a.wandb"
    ends = [len(written(parts[:n])) for n in range(1, len(parts) + 1)]
    for size in [*range(300), *range(32768 - 300, len(data) + 1)]:
        file.write_bytes(data[:size])
        assert len(list(records(file))) == sum(end <= size for end in ends)


@pytest.mark.parametrize("data", [b"", b":W&B", HEADER, HEADER + b"\0" * 5000, b"something else" * 100])
def test_what_holds_nothing_gives_nothing(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.wandb").write_bytes(data)
    assert list(records(tmp_path / "a.wandb")) == []
