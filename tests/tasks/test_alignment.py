"""Which position of a teacher with another tokenizer has read what a position of the student has read."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers.convert_slow_tokenizer import bytes_to_unicode

from distill.core.signals import IGNORE
from distill.core.utils.errors import UserError
from distill.data import TextData
from distill.tasks.alignment import partners

TEXTS = [
    "The weather in the north was cold.",
    "漢字とかな 🙂🙂 naïve façade",
    "  leading, trailing  \n\n\t12345 ",
    "x",
    "def f(x):\n    return x + 1  # the answer 🙂 is not here, and the rivers were frozen over",
    "漢" * 9,
]
BYTES = {character: byte for byte, character in bytes_to_unicode().items()}


def tokens(tokenizer: Any, text: str) -> list[bytes]:
    """The bytes of each token, by another library's alphabet, and for SentencePiece by hand."""
    out = []
    for token in tokenizer.convert_ids_to_tokens(tokenizer(text, add_special_tokens=False)["input_ids"]):
        if tokenizer.unk_token is None:
            out.append(bytes(BYTES[c] for c in token))
        else:
            out.append(bytes([int(token[3:5], 16)]) if token.startswith("<0x") else token.replace("▁", " ").encode())
    return out


def whole_texts(data: TextData) -> set[str]:
    """Of each of the teacher's tokens what it decodes to behind another, but those that are parts of characters."""
    other = data.other_tokenizer
    before = other("x", add_special_tokens=False)["input_ids"][-1]
    return {text for n in range(len(other)) if "�" not in (text := other.decode([before, n])[1:])}


def read(tokenizer: Any, document: int, text: str) -> Iterator[tuple[int, bytes]]:
    """What each position has read: the document and its bytes; before a text that is about to begin with the space that
    SentencePiece puts there, and more, it is this space that is yet to come."""
    spelled = tokens(tokenizer, text)
    own = tokenizer.unk_token is not None and bool(spelled)
    done = b""
    yield document, b"a space" if own and len(spelled[0]) > 1 else b""
    for token in spelled:
        done += token
        yield document, done[own:]


@pytest.fixture(params=["byte level", "spaced"])
def other(request: Any, small_tokenizers: Any, tmp_path: Path) -> str:
    made = small_tokenizers.byte_level(420) if request.param == "byte level" else small_tokenizers.spaced(90)
    made.save_pretrained(tmp_path / "other")
    return str(tmp_path / "other")


def made(folder: Path, other: str, texts: list[str] = TEXTS, **options: Any) -> TextData:
    for use in ("train", "validation"):
        (folder / f"{use}.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    files: Any = {use: str(folder / f"{use}.jsonl") for use in ("train", "validation")}
    data = TextData(
        files=files, task="causal-lm", tokenizer="distill:quickstart/tokenizer", teacher_tokenizer=other, **options
    )
    data.setup("fit")
    return data


@pytest.mark.parametrize("length", [0, 7, 200])
def test_partners_are_the_positions_that_have_read_the_same_bytes_of_the_same_document(
    tmp_path: Path, other: str, length: int
) -> None:
    data = made(tmp_path, other, pack_length=length)
    samples = data.samples("train")
    rows = [samples[0, row] for row in range(len(samples))]
    ours = [step for d, text in enumerate(TEXTS) for step in read(data.tokenizer, d, text)]
    theirs = [step for d, text in enumerate(TEXTS) for step in read(data.other_tokenizer, d, text)]
    assert sum(len(row["input_ids"]) for row in rows) == len(ours)
    assert sum(len(row["teacher_input_ids"]) for row in rows) == len(theirs)
    spelled = {tuple(data.tokenizer(t, add_special_tokens=False)["input_ids"]) for t in whole_texts(data)}
    place = first = aligned = within = begun = 0
    nodes: dict[int, tuple[int, ...]] = {}
    for row in rows:
        for offset, (at, node) in enumerate(zip(row["teacher_at"], row["teacher_path"], strict=True)):
            last = place + 1 == len(ours) or ours[place + 1] != ours[place]
            same = [j for j, step in enumerate(theirs) if step == ours[place]] if last else []
            assert at < len(row["teacher_input_ids"])
            if same:
                assert [first + at] == same[-1:]
                assert node == 0
                aligned, begun = aligned + 1, offset
            elif at >= 0:  # the text that is read since is the beginning of the teacher's next token, and no more
                assert ours[begun + place - offset] == theirs[first + at]
                assert len(ours[place][1]) < len(theirs[first + at + 1][1])
                since = tuple(int(i) for i in row["input_ids"][begun + 1 : offset + 1])
                assert any(spelling[: len(since)] == since != spelling for spelling in spelled)
                assert nodes.setdefault(int(node), since) == since
                within += 1
            place += 1
        if "position_ids" in row:  # each side begins anew where a document or a block does
            for of, name, start in (
                (ours, "position_ids", place - len(row["input_ids"])),
                (theirs, "teacher_position_ids", first),
            ):
                documents = [of[start + i][0] for i in range(len(row[name]))]
                assert row[name].tolist() == [i - documents.index(d) for i, d in enumerate(documents)]
        first += len(row["teacher_input_ids"])
    assert aligned > 2 * len(TEXTS)
    assert within > 0
    assert len(set(nodes.values())) == len(nodes)


def test_within_a_character_both_may_have_read_the_same_bytes(tmp_path: Path, small_tokenizers: Any) -> None:
    small_tokenizers.byte_level(260, ["abc"]).save_pretrained(tmp_path / "other")  # every byte is a token
    data = made(tmp_path, str(tmp_path / "other"), ["漢🙂"], pack_length=0)
    sample = data.samples("train")[0, 0]
    assert (sample["teacher_at"] >= 0).all()
    assert len(sample["teacher_input_ids"]) == 1 + len("漢🙂".encode())


def test_the_teachers_own_labels_are_its_next_tokens_and_their_bytes_are_the_texts(tmp_path: Path, other: str) -> None:
    data = made(tmp_path, other, pack_length=0)
    samples, end = data.samples("train"), data.other_tokenizer.eos_token_id
    for row, text in enumerate(TEXTS):
        sample = samples[0, row]
        ids = data.other_tokenizer(text, add_special_tokens=False)["input_ids"]
        assert sample["teacher_input_ids"].tolist() == [data.other_tokenizer.bos_token_id, *ids]
        assert sample["teacher_labels"].tolist() == [*ids, end]
        assert sample["teacher_bytes"].sum() == len(text.encode())


def test_a_text_that_is_cut_is_cut_for_the_teacher_where_both_have_read_the_same(tmp_path: Path, other: str) -> None:
    data = made(tmp_path, other, pack_length=0, max_length=6)
    for row in range(len(TEXTS)):
        sample = data.samples("train")[0, row]
        assert len(sample["input_ids"]) <= 6
        assert len(sample["teacher_input_ids"]) == sample["teacher_at"].max() + 1


def test_completions_alone_count_for_the_teacher_too(tmp_path: Path, other: str) -> None:
    for use in ("train", "validation"):
        (tmp_path / f"{use}.jsonl").write_text('{"prompt": "in the ", "completion": "north was 漢字"}\n' * 3)
    files: Any = {use: str(tmp_path / f"{use}.jsonl") for use in ("train", "validation")}
    given: dict[str, Any] = {"files": files, "task": "causal-lm", "tokenizer": "distill:quickstart/tokenizer"}
    data = TextData(**given, teacher_tokenizer=other, chat_template=False)
    data.setup("fit")
    sample = data.samples("train")[0, 0]
    counted = sample["teacher_labels"] != IGNORE
    spelled = data.other_tokenizer.decode(sample["teacher_labels"][counted], skip_special_tokens=True)
    assert 0 < counted.sum() < len(counted)
    assert spelled.strip().endswith("north was 漢字")
    with pytest.raises(UserError, match="a chat template writes another text for each tokenizer"):
        TextData(**given, teacher_tokenizer=other).setup("fit")


def test_the_share_is_said_and_texts_that_a_normalizer_changes_are_counted(
    tmp_path: Path, small_tokenizers: Any
) -> None:
    small_tokenizers.lower_case(320).save_pretrained(tmp_path / "other")
    data = made(tmp_path, str(tmp_path / "other"), ["the north", "the North", "the weather In it"], pack_length=0)
    rows = [data.samples("train")[0, row] for row in range(3)]
    within = sum(int((row["teacher_path"] > 0).sum()) for row in rows)
    aligned = sum(int((row["teacher_at"] >= 0).sum()) for row in rows) - within
    every = sum(len(row["labels"]) for row in rows)
    said = [line for line in data.account if "compared" in line]
    assert f"compared at {aligned:,} of {every:,} predicted tokens of train ({aligned / every:.1%})" in said[0]
    assert any(
        f"at {within:,} more ({within / every:.1%}) the student is within one of" in line for line in data.account
    )
    assert "spells 2 of 3 texts of train otherwise" in said[1]


def test_where_nothing_is_aligned_the_run_is_refused(tmp_path: Path, small_tokenizers: Any) -> None:
    small_tokenizers.lower_case(320).save_pretrained(tmp_path / "other")
    with pytest.raises(UserError, match=r"data\.teacher_tokenizer = .*no token of the training data ends where"):
        made(tmp_path, str(tmp_path / "other"), ["NORTH", "WEATHER"], pack_length=0, add_special_tokens=False)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"eval_stride": 4}, r"data\.eval_stride = 4: has no effect with data\.teacher_tokenizer"),
        ({"task": "masked-lm"}, r"data\.teacher_tokenizer = .*has no effect with a task that is no causal"),
    ],
)
def test_what_cannot_stand_beside_it_is_refused(
    tmp_path: Path, other: str, options: dict[str, Any], message: str
) -> None:
    (tmp_path / "train.jsonl").write_text('{"text": "a b c"}\n' * 9)
    given: dict[str, Any] = {"task": "causal-lm", "tokenizer": "distill:quickstart/tokenizer", **options}
    with pytest.raises(UserError, match=message):
        TextData(
            files={"train": str(tmp_path / "train.jsonl"), "validation": str(tmp_path / "train.jsonl")},
            teacher_tokenizer=other,
            **given,
        ).setup("fit")


def test_partners_rise_and_of_equal_ends_the_last_ones_meet() -> None:
    ours, theirs = np.array([0, 0, 2, 3, 5, -1]), np.array([0, 0, 0, 3, 4, 5, -1, -1])
    assert partners(ours, theirs).tolist() == [-1, 2, -1, 3, 5, -1]
    assert partners(np.array([0, 1]), np.array([-1, -1])).tolist() == [-1, -1]
    assert partners(np.array([-2, 2]), np.array([0, 2])).tolist() == [-1, 1]
    assert partners(np.array([0, 2]), np.array([-2, 2])).tolist() == [-1, 1]
    assert partners(np.array([-2, 2]), np.array([-2, 1, 2])).tolist() == [0, 2]
    assert partners(np.array([], np.int64), theirs).tolist() == []
