"""What a server answers is read in both forms, and refused where something is missing, or is no probability."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch

from distill.core.signals import Batch, Request, Signals
from distill.models.teachers.documents import documents
from distill.models.teachers.recorded.sparse import TopKCodec
from distill.models.teachers.server.answers import (
    Refused,
    Vocabulary,
    echoed,
    judge,
    prompt_logprobs,
    same_tokens,
    unknown_tokens,
)
from distill.models.teachers.server.source import _sparse

TEXTS = ["<s>", " the", " cat", " sat", "\ufffd", "\ufffd", " mat"]
PROMPT = [0, 1, 2, 3]


class Words:
    """A tokenizer of seven tokens, two of which are parts of characters."""

    def decode(self, ids: list[int], **_: Any) -> str:
        return "".join(TEXTS[i] for i in ids)


WORDS = Vocabulary(Words(), len(TEXTS))


def of_vllm() -> dict[str, Any]:
    """The two most likely tokens of each, and the prompt's own."""
    rows = [{1: -0.5, 2: -1.5}, {1: -0.7, 6: -1.2, 2: -3.0}, {3: -0.1, 2: -3.0}]
    said = [
        {
            str(i): {"logprob": lp, "rank": rank, "decoded_token": TEXTS[i]}
            for rank, (i, lp) in enumerate(row.items(), 1)
        }
        for row in rows
    ]
    return {"prompt_logprobs": [None, *said]}


def of_echo(generated: bool = True) -> dict[str, Any]:
    rows = [{" the": -0.5, " cat": -1.5}, {" the": -0.7, " mat": -1.2, " cat": -3.0}, {" sat": -0.1, " cat": -3.0}]
    more = [{"x": -1.0}] if generated else []
    return {
        "logprobs": {
            "tokens": [*(TEXTS[i] for i in PROMPT), *(["x"] if generated else [])],
            "token_logprobs": [None, -0.5, -3.0, -0.1, *([-1.0] if generated else [])],
            "top_logprobs": [None, *rows, *more],
        }
    }


@pytest.mark.parametrize(
    ("read", "choice"),
    [(prompt_logprobs, of_vllm()), (echoed, of_echo()), (echoed, of_echo(generated=False))],
    ids=["vllm", "echo", "echo alone"],
)
def test_both_forms_say_the_same(read: Any, choice: dict[str, Any]) -> None:
    answer = read(choice, PROMPT, WORDS)
    assert [dict(row) for row in answer.rows] == [
        {1: -0.5, 2: -1.5},
        {1: -0.7, 6: -1.2, 2: -3.0},
        {3: -0.1, 2: -3.0},
    ]
    judge(answer, [0, 1, 2], 2, WORDS.size)
    assert same_tokens(answer, PROMPT, WORDS) == unknown_tokens(answer, [0, 1, 2]) == ""


def changed(change: Callable[[list[Any]], Any]) -> dict[str, Any]:
    choice = copy.deepcopy(of_vllm())
    change(choice["prompt_logprobs"])
    return choice


def put(place: int, token: str, value: Any) -> Callable[[list[Any]], Any]:
    return lambda rows: rows[place].update({token: {"logprob": value, "rank": 3, "decoded_token": "?"}})


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda rows: rows.pop(), "is of 3 tokens, and 4 were sent"),
        (lambda rows: rows[2].pop("2"), "lacks log-probabilities"),
        (put(1, "3", math.nan), "that are none"),
        (put(1, "3", 0.5), "that are none"),
        (put(1, "3", -9999.0), "cuts the distribution"),
        (put(1, "3", -0.6), "add up to more than 1"),
        (put(1, "3", None), "has None for a log-probability"),
        (put(1, "7", -9.0), "names the token 7, and the tokenizer has 7"),
        (
            lambda rows: [row.pop("2") for row in (rows[1], rows[3])] + [rows[2].pop("6")],
            "only that of the most likely",
        ),
    ],
)
def test_what_cannot_be_used_is_refused_with_the_reason(change: Any, why: str) -> None:
    with pytest.raises(Refused, match=why):
        judge(prompt_logprobs(changed(change), PROMPT, WORDS), [0, 1, 2], 2, WORDS.size)


def test_a_label_among_the_most_likely_tokens_is_kept_once() -> None:
    rows = [{1: -0.5, 2: -1.5}, {1: -0.7, 6: -1.2, 2: -3.0}]  # the first one's label is one of its two
    sparse = _sparse(rows, torch.full((7,), 1 / 7).log())
    kept = TopKCodec(2, sparse.base).encode(Signals(sparse_logits=sparse), Batch({"input_ids": torch.zeros(1, 2)}))
    read = TopKCodec(2, sparse.base).decode(kept, [2], Batch({}), Request(logits=True, lazy=True)).sparse_logits
    assert read is not None
    assert [sorted(ids) for ids in read.ids.tolist()] == [[1, 2], [1, 6]]


def test_another_prompt_than_the_one_that_was_sent_is_refused() -> None:
    with pytest.raises(Refused, match="truncates"):
        prompt_logprobs(of_vllm() | {"prompt_token_ids": [0, 1, 2, 2]}, PROMPT, WORDS)
    choice = of_echo()
    for name in choice["logprobs"]:
        choice["logprobs"][name] = choice["logprobs"][name][3:]  # of what was generated alone
    with pytest.raises(Refused, match="does not echo"):
        echoed(choice, PROMPT, WORDS)


def test_tokens_that_have_other_texts_are_told() -> None:
    choice = of_vllm()
    choice["prompt_logprobs"][3]["3"]["decoded_token"] = "quark"
    found = same_tokens(prompt_logprobs(choice, PROMPT, WORDS), PROMPT, WORDS)
    assert found == "calls token 3 'quark', and the tokenizer calls it 'sat'"


def test_a_text_that_fits_several_tokens_is_left_to_the_tail_or_refused_where_it_is_much() -> None:
    for value, much in ((-6.0, False), (-2.0, True)):
        choice = of_echo()
        choice["logprobs"]["top_logprobs"][3] = {" sat": -0.1, "\ufffd": value}
        answer = echoed(choice, PROMPT, WORDS)
        assert dict(answer.rows[2]) == {3: -0.1}
        assert bool(unknown_tokens(answer, [0, 1, 2])) == much


def test_each_document_of_a_block_is_asked_for_by_itself_up_to_its_last_label() -> None:
    ids, labels = torch.tensor([[0, 1, 2, 0, 3, 1]]), torch.tensor([[1, 2, 6, 3, 1, 5]])
    mask = torch.tensor([[False, True, True, True, True, False]])
    inputs = {"input_ids": ids, "position_ids": torch.tensor([[0, 1, 2, 0, 1, 2]])}
    found = list(documents(Batch(inputs, labels=labels, mask=mask)))
    assert found == [([0, 1, 2, 6], [1, 2]), ([0, 3, 1], [0, 1])]
    together = list(documents(Batch({"input_ids": ids}, labels=torch.tensor([[1, 2, 0, 3, 1, 5]]))))
    assert together == [([0, 1, 2, 0, 3, 1, 5], [0, 1, 2, 3, 4, 5])]


def test_behind_a_document_that_later_ones_see_the_block_is_asked_for_once_more() -> None:
    ids, labels = torch.tensor([[0, 1, 2, 0, 3, 1]]), torch.tensor([[1, 2, 6, 3, 1, 5]])
    mask = torch.tensor([[True, True, True, False, True, True]])
    found = list(documents(Batch({"input_ids": ids}, labels=labels, mask=mask)))
    assert found == [([0, 1, 2, 6], [0, 1, 2]), ([0, 1, 2, 0, 3, 1, 5], [4, 5])]


def test_a_teacher_that_is_told_more_is_asked_about_what_it_reads() -> None:
    extras = {"teacher_input_ids": torch.tensor([[6, 6, 0, 1, 2]]), "teacher_at": torch.tensor([[0, 3, 4]])}
    batch = Batch(
        {"input_ids": torch.tensor([[0, 1, 2]])},
        labels=torch.tensor([[-100, 2, 3]]),
        mask=torch.tensor([[False, True, True]]),
        extras=extras,
    )
    assert list(documents(batch)) == [([6, 6, 0, 1, 2, 3], [3, 4])]
