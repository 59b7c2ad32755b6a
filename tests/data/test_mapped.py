"""What is too long for memory is read from a file, and is the same."""

from __future__ import annotations

import errno
import os
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped]
import pytest
import torch
from datasets import Dataset, config
from numpy.typing import NDArray

from distill.core.utils.errors import UserError
from distill.data import features
from distill.data.features import Ragged, read_column
from distill.data.mapped import mapped
from distill.data.text import TextData

INT32 = np.dtype(np.int32)


def numbers() -> Iterator[NDArray[Any]]:
    yield np.arange(5, dtype=np.int32)
    yield np.arange(0, dtype=np.int32)
    yield np.arange(7, dtype=np.int32)


def data(folder: Path, times: int = 1) -> TextData:
    """Paragraphs of a text for a language model, in blocks."""
    file = folder / "book.txt"
    file.write_text("\n\n".join(f"chapter {i}: " + "words and words " * (i % 7) * times for i in range(40)))
    where: dict[str, Any] = {"files": {"train": str(file)}, "validation_fraction": 0.2}
    return TextData(**where, task="causal-lm", tokenizer="distill:quickstart/tokenizer", pack_length=32, batch_size=4)


def batches(given: TextData) -> list[torch.Tensor]:
    given.setup("fit")
    return [batch.inputs["input_ids"] for batch in given.train_dataloader()]


@pytest.mark.filterwarnings("error:The given NumPy array is not writable")
def test_batches_read_from_files_are_those_of_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    in_memory = data(tmp_path)
    expected = batches(in_memory)
    monkeypatch.setattr(features, "LARGE", 1)
    first, again = data(tmp_path), data(tmp_path)
    for found, given in zip(batches(first), expected, strict=True):
        assert torch.equal(found, given)
    ids = first.samples("train").features["input_ids"]
    assert isinstance(ids, Ragged)
    assert isinstance(ids.values, np.memmap)
    assert first.fingerprint == in_memory.fingerprint == again.fingerprint
    written = Path(str(ids.values.filename)).stat().st_mtime_ns
    batches(again)
    assert Path(str(ids.values.filename)).stat().st_mtime_ns == written  # it is made once


def test_what_is_said_of_long_texts_takes_no_memory_for_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "LARGE", 1)
    made = data(tmp_path, times=1000)
    made.setup("fit")
    ids = made.samples("train").features["input_ids"]
    assert isinstance(ids, Ragged)
    tracemalloc.start()
    try:
        made.account  # noqa: B018
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(ids.values) > 1 << 18
    assert peak < 2 * len(ids.values)  # an array of them has 4 bytes each


def test_values_are_counted_over_all_blocks() -> None:
    values = np.random.default_rng(0).integers(0, 5, 3 * 2**16 + 7).astype(np.int32)
    column = Ragged(values, np.array([0, 5, len(values)]))
    assert column.count(lambda part: part == 3) == values.tolist().count(3)
    assert Ragged(values[:0], np.array([0])).count(lambda part: part == 3) == 0


def test_parts_lie_end_to_end_and_the_file_is_taken_as_it_is(tmp_path: Path) -> None:
    file = tmp_path / "rows.npy"
    assert mapped(numbers(), 12, INT32, file).tolist() == [*range(5), *range(7)]
    assert mapped(iter(()), 12, INT32, file).tolist() == [*range(5), *range(7)]
    assert [path.name for path in tmp_path.iterdir()] == ["rows.npy"]


@pytest.mark.parametrize("damage", ["cut", "empty", "other", "object"])
def test_a_file_that_is_not_whole_is_made_anew(damage: str, tmp_path: Path) -> None:
    file = tmp_path / "rows.npy"
    mapped(numbers(), 12, INT32, file)
    if damage == "cut":
        file.write_bytes(file.read_bytes()[:-4])
    elif damage == "empty":
        file.write_bytes(b"")
    else:
        np.save(file, np.arange(12, dtype=np.int64) if damage == "other" else np.array([{}] * 12))
    assert mapped(numbers(), 12, INT32, file).tolist() == [*range(5), *range(7)]


def test_who_makes_a_file_clears_what_a_kill_has_left_of_it(tmp_path: Path) -> None:
    (tmp_path / ".rows.npy.0123abcd").write_bytes(b"half")
    (tmp_path / ".columns.npy.0123abcd").write_bytes(b"another's")
    mapped(numbers(), 12, INT32, tmp_path / "rows.npy")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".columns.npy.0123abcd", "rows.npy"]


def test_two_processes_that_make_a_file_at_once_both_have_it(tmp_path: Path) -> None:
    file = tmp_path / "rows.npy"

    def while_another_does() -> Iterator[NDArray[Any]]:
        yield np.arange(5, dtype=np.int32)
        assert len(mapped(numbers(), 12, INT32, file)) == 12
        yield np.arange(7, dtype=np.int32)

    assert mapped(while_another_does(), 12, INT32, file).tolist() == [*range(5), *range(7)]
    assert [path.name for path in tmp_path.iterdir()] == ["rows.npy"]


@pytest.mark.parametrize("rows", [[[1, 2], [], [3]], [[1, None], [2]], [[0.5], [1.5, 2.5]], [[True], [False, True]]])
def test_a_column_in_a_file_is_that_in_memory(
    rows: list[list[Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = rows * 3
    dataset = Dataset(pa.table({"x": pa.chunked_array([pa.array(rows[:2]), pa.array(rows[2:])])}))
    expected = np.array([np.nan if value is None else value for row in rows for value in row])
    for large in (2**24, 0):
        monkeypatch.setattr(features, "LARGE", large)
        column = read_column(dataset, "x", tmp_path / "rows.arrow")
        assert isinstance(column, Ragged)
        np.testing.assert_array_equal(column.values, expected)
        assert column.values.dtype == (np.float32 if expected.dtype == np.float64 else np.int32)
        assert column.lengths.tolist() == [len(row) for row in rows]


def test_a_file_is_no_longer_than_what_was_written(tmp_path: Path) -> None:
    # A page of a file that is longer than that, which a full disk has no place for, is a signal to who writes it.
    def watching() -> Iterator[NDArray[Any]]:
        for number in range(1, 5):
            yield np.zeros(1 << 16, dtype=np.int32)
            [file] = tmp_path.iterdir()
            assert file.stat().st_size <= 128 + number * (4 << 16)

    assert len(mapped(watching(), 4 << 16, INT32, tmp_path / "rows.npy")) == 4 << 16


@pytest.mark.parametrize(
    ("trouble", "where"),
    [(errno.ENOSPC, None), (errno.EDQUOT, None), (errno.EROFS, "distill/rows.npy"), (errno.EACCES, "distill")],
)
def test_a_cache_that_cannot_be_written_is_one_message(
    trouble: int, where: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*_: Any) -> None:
        file = None if where is None else str(Path(config.HF_DATASETS_CACHE) / where)
        raise OSError(trouble, os.strerror(trouble), file)

    monkeypatch.setattr(features, "LARGE", 1)
    monkeypatch.setattr(features, "mapped", failing)
    with pytest.raises(UserError, match=os.strerror(trouble)) as refused:
        data(tmp_path).setup("fit")
    assert (refused.value.key, refused.value.value) == (
        "HF_DATASETS_CACHE",
        str(Path(config.HF_DATASETS_CACHE) / "distill"),
    )


def test_what_else_cannot_be_read_keeps_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*_: Any) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", "/elsewhere/picture.png")

    monkeypatch.setattr(features, "LARGE", 1)
    monkeypatch.setattr(features, "mapped", failing)
    with pytest.raises(PermissionError, match="picture"):
        data(tmp_path).setup("fit")


def test_what_fails_half_way_leaves_nothing(tmp_path: Path) -> None:
    def failing() -> Iterator[NDArray[Any]]:
        yield np.arange(5, dtype=np.int32)
        raise OSError("no space left on device")

    with pytest.raises(OSError, match="no space"):
        mapped(failing(), 12, INT32, tmp_path / "rows.npy")
    assert not list(tmp_path.iterdir())
