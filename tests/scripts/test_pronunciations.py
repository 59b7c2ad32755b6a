"""The data of words and their phonemes: what is read of the dictionary, and that the tokenizer has all of it."""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from distill.cli.main import main

SCRIPT = Path(__file__).parents[2] / "scripts/pronunciations.py"
LINES = """'bout B AW1 T
abbey AE1 B IY0
abbey(2) AH0 B EY1
d'artagnan D AH0 R T AE1 NG Y AH0 N # foreign french
zoo Z UW1 # short
"""


def test_words_of_letters_have_their_first_pronunciation_without_stress() -> None:
    made: Any = runpy.run_path(str(SCRIPT))["pronunciations"]
    assert made(LINES.splitlines()) == [("a b b e y", "AE B IY"), ("z o o", "Z UW")]


def test_each_word_is_in_one_split_and_the_tokenizer_gives_every_text_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    script: Any = runpy.run_path(str(SCRIPT))
    letters = "abcdefgh"
    words = [a + b + c for a in letters for b in letters for c in letters]
    file = tmp_path / "dictionary"
    file.write_text("".join(f"{word} {' '.join(letter.upper() + '1' for letter in word)}\n" for word in words))
    monkeypatch.setitem(script["main"].__globals__, "HELD_OUT", 20)
    script["main"]([str(file), str(tmp_path / "data")])
    splits = {
        name: [json.loads(line) for line in (tmp_path / f"data/{name}.jsonl").read_text().splitlines()]
        for name in ("train", "validation", "test")
    }
    assert {name: len(rows) for name, rows in splits.items()} == {"train": 472, "validation": 20, "test": 20}
    assert sorted(row["source"].replace(" ", "") for rows in splits.values() for row in rows) == words
    tokenizer: Any = AutoTokenizer.from_pretrained(tmp_path / "data/tokenizer")
    for row in splits["test"]:
        for text in row.values():
            ids = tokenizer(text)["input_ids"]
            assert ids[-1] == tokenizer.eos_token_id
            assert tokenizer.decode(ids, skip_special_tokens=True) == text
    assert "train: 472 words" in capsys.readouterr().out
    monkeypatch.chdir(tmp_path)
    small = ("--trainer.accelerator", "cpu", "--trainer.max_steps", "1", "--dry-run")
    argv = ("-c", "seq2seq/teacher", "-c", "data/words.yaml", "-c", "data/teacher.yaml")
    assert main(["fit", *argv, "--data.files.train", "data/train.jsonl", *small]) == 0
