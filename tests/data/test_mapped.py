"""What is too long for memory is read from a file, and is the same."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from distill.data import features
from distill.data.features import Ragged
from distill.data.mapped import mapped
from distill.data.text import TextData

INT32 = np.dtype(np.int32)


def numbers() -> Iterator[NDArray[Any]]:
    yield np.arange(5, dtype=np.int32)
    yield np.arange(0, dtype=np.int32)
    yield np.arange(7, dtype=np.int32)


def data(folder: Path) -> TextData:
    """Paragraphs of a text for a language model, in blocks."""
    file = folder / "book.txt"
    file.write_text("\n\n".join(f"chapter {i}: " + "words and words " * (i % 7) for i in range(40)))
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


def test_what_fails_half_way_leaves_nothing(tmp_path: Path) -> None:
    def failing() -> Iterator[NDArray[Any]]:
        yield np.arange(5, dtype=np.int32)
        raise OSError("no space left on device")

    with pytest.raises(OSError, match="no space"):
        mapped(failing(), 12, INT32, tmp_path / "rows.npy")
    assert not list(tmp_path.iterdir())
