"""Rows that are judged, and whose texts or pictures are among those that are trained on."""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import blake2b
from typing import Any

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.compute as pc  # type: ignore[import-untyped]

from distill.data import arrow
from distill.data.features import Ragged, Samples

__all__ = ["repeated_pictures", "repeats"]

_READ = ("text", "text_pair", "prompt", "completion")


def repeats(
    splits: Mapping[str, Any], columns: Mapping[str, Mapping[str, str]], *, prose: bool = False
) -> dict[str, tuple[int, int]]:
    """Use -> rows whose texts are in ``train`` too, and all of its rows.

    Lists of turns are not compared: of those nothing is said; nor of the lines of a language model's text, of which
    headings and refrains are alike wherever they come from. Blank texts are no repeats.

    Args:
        splits: Use -> rows; that of training is among them.
        columns: Use -> role -> column.
        prose: Whether rows are what a language model reads on, documents or lines of them.
    """
    read = [role for role in _READ if role in columns["train"]]
    if not read or any(arrow.fields(arrow.column(splits["train"], columns["train"][one])) for one in read):
        return {}
    found = {}
    trained = _texts(splits["train"], columns["train"])
    if prose and not pc.any(pc.match_substring(pc.utf8_trim_whitespace(trained), "\n")).as_py():
        return {}
    for use in [use for use in ("validation", "test") if use in splits]:
        judged = _texts(splits[use], columns[use])
        # Twice, so that only texts of the smaller split are ever hashed.
        both = pc.unique(trained.filter(pc.is_in(trained, value_set=pc.unique(judged))))
        both = both.filter(pc.not_equal(pc.utf8_trim_whitespace(pc.replace_substring(both, "\0", " ")), ""))
        found[use] = (pc.sum(pc.is_in(judged, value_set=both)).as_py() or 0, len(judged))
    return found


def repeated_pictures(samples: Mapping[str, Samples]) -> dict[str, tuple[int, int]]:
    """As :func:`repeats`, of samples that keep a picture's file: use -> those whose file is in ``train`` too, and all.

    Args:
        samples: Use -> what has been read; without the training data nothing is known.
    """
    if "train" not in samples:
        return {}
    trained = _files(samples["train"])
    found = {}
    for use in [use for use in ("validation", "test") if use in samples]:
        judged = _files(samples[use])
        lengths = np.intersect1d(trained.lengths, judged.lengths)  # only files of one size are ever hashed
        known = set(_hashes(trained, lengths))
        found[use] = (sum(one in known for one in _hashes(judged, lengths)), len(judged))
    return found


def _files(samples: Samples) -> Ragged:
    files = samples.features["image"]
    assert isinstance(files, Ragged)
    return files


def _hashes(files: Ragged, lengths: Any) -> list[bytes]:
    """Those of the files that are of one of these lengths; an empty one, of a picture that was left out, is none."""
    places = np.flatnonzero(np.isin(files.lengths, lengths[lengths > 0])).tolist()
    return [blake2b(np.ascontiguousarray(files[place]).data, digest_size=16).digest() for place in places]


def _texts(dataset: Any, columns: Mapping[str, str]) -> Any:
    """What is read of each row, as one text; a row without one is an empty one's like."""
    parts = []
    for role in [role for role in _READ if role in columns]:
        values = arrow.column(dataset, columns[role])
        parts.append(pc.fill_null(pc.binary_join(values, " ") if arrow.is_list(values) else values, ""))
    joined = [pc.cast(part, pa.large_string()) for part in parts]
    return pc.binary_join_element_wise(*joined, pa.scalar("\0", pa.large_string())) if len(joined) > 1 else joined[0]
