"""What datasets knows a data set by."""

from __future__ import annotations

from datasets import Dataset

from distill.core.internals.datasets import fingerprint


def test_the_same_rows_have_one_fingerprint_and_others_another() -> None:
    rows = Dataset.from_dict({"text": ["a", "b"]})
    found = {fingerprint(data) for data in (rows, Dataset.from_dict({"text": ["a", "c"]}), rows.select([0]))}
    assert len(found) == 3
    assert fingerprint(Dataset.from_dict({"text": ["a", "b"]})) == fingerprint(rows)
