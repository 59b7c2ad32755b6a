"""Packing: documents joined end to end and cut into blocks of one length, so that no position is padding."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distill.core.signals import IGNORE, TEACHER_AT
from distill.data.features import Key, Ragged, Samples

__all__ = ["PackedSamples", "sliding_windows"]


_THEIRS = ("teacher_input_ids", "teacher_labels", "teacher_bytes")


class PackedSamples(Samples):
    """Blocks of ``length`` positions cut from the documents of ``samples`` in their order.

    Every per-token feature is joined and cut alike. Labels are such a feature, each standing at the position
    that predicts it, so a cut between two blocks loses none: every token is predicted exactly once. The last
    block is as short as what is left.

    With ``isolate`` a block also has ``position_ids`` that start again at 0 with each document in it (and with
    the block). Models of transformers read the start of a new document off them, where no attention mask and
    no cache is given, and let no position attend beyond its own document.

    Args:
        samples: The documents, each per-token feature a :class:`Ragged`; others are left behind.
        length: Positions of a block, L.
        isolate: Whether documents in one block are hidden from each other.
        whole: Whether a block ends before a document that it has no room for, as an answer is nothing without its
            question; no document may be longer than L then.
    """

    def __init__(self, samples: Samples, length: int, *, isolate: bool, whole: bool = False) -> None:
        documents = samples.features["input_ids"]
        assert isinstance(documents, Ragged)
        total = len(documents.values)
        cuts = _whole(documents.offsets, length) if whole else np.append(np.arange(0, total, length), total)
        features = {
            name: Ragged(values.values, cuts)
            for name, values in samples.features.items()
            if isinstance(values, Ragged) and name not in _THEIRS
        }
        super().__init__(features | _of_teacher(samples, cuts, isolate), samples.seed)
        self.starts, self.isolate = documents.offsets, isolate

    def __getitem__(self, key: Key) -> dict[str, Any]:
        sample = super().__getitem__(key)
        if self.isolate:
            sample["position_ids"] = self._positions(key[1])
        return sample

    @property
    def fingerprint(self) -> str:
        """A hash of every value of every feature, positions included."""
        extra = hashlib.blake2b(self.starts.tobytes(), digest_size=16) if self.isolate else None
        return super().fingerprint + (f"-{extra.hexdigest()}" if extra else "")

    def _positions(self, row: int) -> np.ndarray[Any, np.dtype[np.int64]]:
        """Each position's distance to the start of its document or of the block, whichever is later."""
        blocks = self.features["input_ids"]
        assert isinstance(blocks, Ragged)
        first, last = blocks.offsets[row : row + 2]
        inside = self.starts[np.searchsorted(self.starts, first, "right") : np.searchsorted(self.starts, last, "left")]
        positions = np.arange(last - first)
        start = np.zeros_like(positions)
        start[inside - first] = inside - first
        return positions - np.maximum.accumulate(start)


def _of_teacher(samples: Samples, cuts: NDArray[np.int64], isolate: bool) -> dict[str, Any]:
    """What the teacher reads of each block, where it reads the documents in other tokens.

    A block of its tokens begins with a document of the block, or where one is cut behind the tokens that belong to the
    block before. So each of its tokens is in one block, and each partner of a position in the block of that.

    Args:
        samples: The documents.
        cuts: Where blocks begin and end.
        isolate: Whether documents in one block are hidden from each other.
    """
    theirs, at, ours = (samples.features.get(name) for name in ("teacher_input_ids", TEACHER_AT, "input_ids"))
    if not (isinstance(theirs, Ragged) and isinstance(at, Ragged) and isinstance(ours, Ragged)):
        return {}
    total = len(theirs.values)
    document = np.append(np.repeat(theirs.offsets[:-1], ours.lengths), total)
    place = np.where(at.values >= 0, at.values + document[:-1], -1)
    read = np.append(0, np.maximum.accumulate(place) + 1)
    first = np.maximum(read, document)[cuts]
    own = place - np.repeat(first[:-1], np.diff(cuts))  # below 0 too within a token that the block before has read
    found = {TEACHER_AT: Ragged(np.maximum(own, -1), cuts)}
    for name in _THEIRS:
        if isinstance(values := samples.features.get(name), Ragged):
            found[name] = Ragged(values.values, first)
    if isolate:
        starts = np.maximum(np.repeat(theirs.offsets[:-1], theirs.lengths), np.repeat(first[:-1], np.diff(first)))
        found["teacher_position_ids"] = Ragged(np.arange(total) - starts, first)
    return found


def _whole(offsets: NDArray[np.int64], length: int) -> NDArray[np.int64]:
    """Where blocks of at most ``length`` positions begin and end, none of them within a document."""
    cuts = [0]
    while cuts[-1] < offsets[-1]:
        cuts.append(int(offsets[np.searchsorted(offsets, cuts[-1] + length, "right") - 1]))
    return np.array(cuts)


def sliding_windows(samples: Samples, length: int, stride: int, *, isolate: bool) -> Samples:
    """Windows of ``length`` positions that each begin ``stride`` after the one before, for evaluation.

    Only what no earlier window has seen is to be predicted, so every token is predicted once, and from at least
    ``length - stride`` positions of its text before it, where there are as many.

    Args:
        samples: The documents, with ``labels``.
        length: Positions of a window, L.
        stride: Positions from one window to the next, at most L.
        isolate: Whether documents in one window are hidden from each other (:class:`PackedSamples`).
    """
    documents = samples.features["input_ids"]
    assert isinstance(documents, Ragged)
    total = len(documents.values)
    begins = np.arange(0, max(total - length, 0) + stride, stride)
    ends = np.minimum(begins + length, total)
    cuts = np.append(0, np.cumsum(ends - begins))
    begin = np.repeat(begins, ends - begins)
    place = np.arange(cuts[-1]) - np.repeat(cuts[:-1], ends - begins) + begin
    seen = (begin > 0) & (place < begin + length - stride)
    columns = {name: one.values[place] for name, one in samples.features.items() if isinstance(one, Ragged)}
    columns["labels"] = np.where(seen, IGNORE, columns["labels"])
    if "bytes" in columns:
        columns["bytes"] = np.where(seen, 0, columns["bytes"])
    if isolate:
        document = documents.offsets[np.searchsorted(documents.offsets, place, "right") - 1]
        columns["position_ids"] = place - np.maximum(document, begin)
    return Samples({name: Ragged(values, cuts) for name, values in columns.items()}, samples.seed)
