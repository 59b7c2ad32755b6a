from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from distill.core.utils.errors import UserError
from distill.data import TextData

LINES = ["# One", "", "a = 1", "# Two", "b = 2 é"]
TITLES = ["one", "one", "one", "two", "two"]


def made(folder: Path, **options: Any) -> TextData:
    rows = [{"text": text, "title": title} for text, title in zip(LINES, TITLES, strict=True)]
    for use in ("train", "validation"):
        (folder / f"{use}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    files: Any = {use: str(folder / f"{use}.jsonl") for use in ("train", "validation")}
    return TextData(files=files, task="causal-lm", tokenizer="distill:quickstart/tokenizer", pack_length=0, **options)


@pytest.mark.parametrize(
    ("options", "texts"),
    [
        ({}, ["# One", "a = 1", "# Two", "b = 2 é"]),
        ({"join": "\n"}, ["\n".join(LINES)]),
        ({"join": ""}, ["".join(LINES)]),
        ({"columns": {"document": "title"}}, ["# One\n\na = 1", "# Two\nb = 2 é"]),
        ({"columns": {"document": "title"}, "join": " "}, ["# One  a = 1", "# Two b = 2 é"]),
    ],
)
def test_rows_that_are_lines_of_one_text_are_one_document(
    tmp_path: Path, options: dict[str, Any], texts: list[str]
) -> None:
    data = made(tmp_path, **options)
    samples = data.samples("train")
    read = [data.tokenizer.decode(samples[0, row]["labels"], skip_special_tokens=True) for row in range(len(samples))]
    assert read == texts
    assert sum(samples.features["bytes"].values) == sum(len(text.encode()) for text in texts)  # type: ignore[union-attr]
    said = f"data: the 5 rows of train are joined into {len(texts)} text{'s' * (len(texts) > 1)} (data.join)"
    assert (said in data.account) == bool(options)


@pytest.mark.parametrize(
    ("options", "key", "problem"),
    [
        ({"join": "\n", "validation_fraction": 0.2}, "data.validation_fraction", "all rows are one text"),
        ({"columns": {"document": "titel"}}, "data.columns.document", "no such column"),
        ({"join": "\n", "columns": {"prompt": "text", "completion": "title"}}, "data.join", "no plain texts"),
    ],
)
def test_what_cannot_be_joined_is_refused(tmp_path: Path, options: dict[str, Any], key: str, problem: str) -> None:
    with pytest.raises(UserError, match=problem) as refused:
        made(tmp_path, **options).setup("fit")
    assert refused.value.key == key
