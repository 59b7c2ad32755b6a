from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from distill.data.features import Ragged, Samples
from distill.data.one_sample import show_tokens
from distill.data.packing import PackedSamples
from distill.tasks import CausalLM

CHATS = [
    [{"role": "user", "content": "x"}, {"role": "assistant", "content": "if\n"}],
    [{"role": "user", "content": "y"}, {"role": "assistant", "content": "else"}],
]


@pytest.fixture
def samples(chat_tokenizer: Callable[..., Any]) -> Samples:
    made = CausalLM().encode(chat_tokenizer(), None)({"messages": CHATS})
    made = {name: Ragged(np.concatenate(rows), np.cumsum([0, *map(len, rows)])) for name, rows in made.items()}
    return Samples(made, seed=0)


def test_a_sample_is_shown_token_by_token_with_what_counts(
    samples: Samples, chat_tokenizer: Callable[..., Any]
) -> None:
    title, reads, predicts = show_tokens(samples, 0, chat_tokenizer())
    texts = reads.removeprefix("  reads    ").split("│"), predicts.removeprefix("  predicts ").split("│")
    tokens = sum(map(len, texts))
    assert title == f"sample 0 of train: {tokens} tokens, 3 of them predicted"
    assert len(samples.features["input_ids"][0]) == tokens - 1  # the last is predicted alone
    system = "<|im_start|>system\\nBe brief.<|im_end|>\\n"
    assert "".join(texts[0]) == f"{system}<|im_start|>user\\nx<|im_end|>\\n<|im_start|>assistant\\n"
    assert texts[1] == ["if", "\\n", "<|im_end|>"]


def test_of_a_block_the_first_document_is_shown(samples: Samples, chat_tokenizer: Callable[..., Any]) -> None:
    alone = show_tokens(samples, 0, chat_tokenizer())
    block = PackedSamples(samples, 200, isolate=True, whole=True)
    assert show_tokens(block, 0, chat_tokenizer()) == [
        alone[0].replace("sample 0", "the first document of block 0"),
        *alone[1:],
    ]


def test_a_long_sample_is_cut_short(chat_tokenizer: Callable[..., Any]) -> None:
    made = CausalLM().encode(chat_tokenizer(), None)({"text": ["if x: pass\n" * 100]})
    samples = Samples({name: Ragged(rows[0], np.array([0, len(rows[0])])) for name, rows in made.items()}, seed=0)
    title, _, predicts, rest = show_tokens(samples, 0, chat_tokenizer())
    count = len(made["input_ids"][0]) + 1
    assert title.endswith(f"{count} tokens, {count - 1} of them predicted")
    assert predicts.count("│") == 198
    assert rest == f"  ... and {count - 200} more"
