"""What tokens spell, and where they no longer spell the text."""

from __future__ import annotations

from typing import Any

import pytest
from transformers import AutoTokenizer

from distill.core.token_bytes import spelled_up_to, token_bytes
from distill.core.utils.errors import UserError
from distill.core.utils.paths import resolve

TEXTS = ["The answer 漢字🙂 é\nx", "  two", " one", "\n\n\tx  ", "", "🙂🙂"]


@pytest.fixture(scope="module", params=["byte level", "spaced", "quickstart"])
def tokenizer(request: Any, small_tokenizers: Any) -> Any:
    if request.param == "quickstart":
        return AutoTokenizer.from_pretrained(resolve("distill:quickstart/tokenizer", "tokenizer"))
    return small_tokenizers.byte_level(320) if request.param == "byte level" else small_tokenizers.spaced(90)


@pytest.mark.parametrize("text", TEXTS)
def test_the_bytes_of_a_texts_tokens_are_the_text(tokenizer: Any, text: str) -> None:
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    spelled = b"".join(token_bytes(tokenizer)[number] for number in ids)
    assert spelled in (text.encode(), b" " + text.encode())  # SentencePiece puts a space before


@pytest.mark.parametrize("text", TEXTS)
def test_every_token_is_known_to_end_where_what_is_decoded_up_to_it_ends(tokenizer: Any, text: str) -> None:
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    found, spaced = spelled_up_to(ids, token_bytes(tokenizer), text.encode())
    assert (found >= 0).all()
    first = tokenizer.convert_ids_to_tokens(ids[:1])
    assert spaced == (tokenizer.unk_token is not None and first[:1] not in ([], ["▁"]))
    for count, end in enumerate(found, 1):
        decoded = tokenizer.decode(ids[:count], clean_up_tokenization_spaces=False)
        if "�" not in decoded:  # not within a character
            assert text.encode()[:end].decode().lstrip(" ") == decoded.lstrip(" ")
    assert found[-1:].tolist() == ([len(text.encode())] if text else [])


def test_behind_what_a_normalizer_writes_otherwise_no_token_has_a_known_end(small_tokenizers: Any) -> None:
    tokenizer = small_tokenizers.lower_case(320)
    text = "the weather In the north"
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    found = spelled_up_to(ids, token_bytes(tokenizer), text.encode())[0].tolist()
    known = [end for end in found if end >= 0]
    assert known
    assert max(known) <= len("the weather ")
    assert found[len(known) :] == [-1] * (len(found) - len(known)) != []


def test_a_tokenizer_whose_tokens_are_not_known_to_be_bytes_is_refused(tiny_tokenizer_dir: str) -> None:
    with pytest.raises(UserError, match=r"data\.teacher_tokenizer = .*nothing says which bytes its tokens stand for"):
        token_bytes(AutoTokenizer.from_pretrained(tiny_tokenizer_dir), "data.teacher_tokenizer")
