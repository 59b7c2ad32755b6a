from __future__ import annotations

import sysconfig
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from distill.core.utils.paths import resolve
from distill.data.corpus import is_validation, stdlib


@pytest.fixture(scope="module")
def corpus():
    return stdlib()


def test_both_splits_hold_whole_modules_of_the_standard_library(corpus):
    root = Path(sysconfig.get_paths()["stdlib"])
    sizes = {split: sum(map(len, rows["text"])) for split, rows in corpus.items()}
    assert sizes["train"] > 5e6
    assert 0.02 < sizes["validation"] / sum(sizes.values()) < 0.10
    for rows in corpus.values():
        assert rows["path"] == sorted(rows["path"])
        assert rows[0]["text"] == (root / rows[0]["path"]).read_text(encoding="utf-8")


def test_no_module_is_on_both_sides_or_a_test_or_installed(corpus):
    train, validation = (set(corpus[split]["path"]) for split in ("train", "validation"))
    assert not train & validation
    for path in train | validation:
        assert not {"test", "tests", "idle_test", "site-packages", "__pycache__"} & set(path.split("/"))


def test_a_module_stays_on_its_side_when_others_come(tmp_path):
    for i in range(40):
        (tmp_path / f"m{i}.py").write_text(f"x = {i}\n")
    before = stdlib(tmp_path)
    (tmp_path / "a_new_one.py").write_text("y = 1\n")
    (tmp_path / "binary.py").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "empty.py").write_text("\n")
    after = stdlib(tmp_path)
    assert set(before["validation"]["path"]) == set(after["validation"]["path"]) - {"a_new_one.py"}
    assert len(after["train"]) + len(after["validation"]) == 41
    assert all(is_validation(path) for path in after["validation"]["path"])


def test_the_quick_starts_tokenizer_gives_every_text_back_unchanged(corpus):
    tokenizer = AutoTokenizer.from_pretrained(resolve("distill:quickstart/tokenizer", "tokenizer"))
    assert len(tokenizer) == 2048
    assert tokenizer.eos_token == tokenizer.bos_token == tokenizer.pad_token == "<|endoftext|>"
    strange = "def f(x):\n\t  return  x \r\n\n\n# é 漢 🙂 <|endoftext|> isn 't , . \x00 \u2028 end  "
    for text in [strange, *corpus["validation"]["text"]]:
        assert tokenizer.decode(tokenizer(text, verbose=False)["input_ids"]) == text


def test_the_quick_starts_tokenizer_takes_three_bytes_a_token(corpus):
    tokenizer = AutoTokenizer.from_pretrained(resolve("distill:quickstart/tokenizer", "tokenizer"))
    texts = list(corpus["validation"]["text"])
    tokens = sum(map(len, tokenizer(texts, verbose=False)["input_ids"]))
    assert sum(len(text.encode()) for text in texts) / tokens > 3.0
