#!/usr/bin/env python
"""Train the quick start's tokenizer: byte-level BPE on the training split of the standard library.

    python scripts/train_tokenizer.py [--size 2048] [--out configs/quickstart/tokenizer]

Takes about ten seconds. Prints the bytes per token on both splits, and checks that decoding gives every
module of the corpus back unchanged.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from distill.data.corpus import stdlib

END = "<|endoftext|>"

# Where tokens may not cross: GPT-2's own pattern breaks an indentation off its line break and gives its last
# space away to the word, so each depth costs several tokens. Here a line break takes the blank lines and the
# whole indentation with it, punctuation takes the line break ("):\n        "), and a word takes the one
# character before it (".append", " self", "_name").
PYTHON = "|".join(
    (
        r"[ \t]*(?:\r?\n[ \t]*)+",
        r" ?[^\s\p{L}\p{N}]?\p{L}+",
        r"\p{N}{1,3}",
        r" ?[^\s\p{L}\p{N}]+(?:\r?\n[ \t]*)*",
        r"\s+",
    )
)


def train(texts: Iterable[str], size: int) -> Tokenizer:
    """A byte-level BPE tokenizer of ``size`` entries, :data:`END` and all 256 bytes among them."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PYTHON), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def check(tokenizer: Any, texts: Iterable[str]) -> float:
    """Bytes per token over ``texts``.

    Raises:
        ValueError: if decoding does not give a text back unchanged.
    """
    tokens = size = 0
    for text in texts:
        ids = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        if tokenizer.decode(ids) != text:
            raise ValueError(f"decoding changed a text that begins {text[:60]!r}")
        tokens += len(ids)
        size += len(text.encode())
    return size / tokens


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=2048, help="entries of the vocabulary")
    parser.add_argument("--out", default="configs/quickstart/tokenizer", help="folder to write")
    args = parser.parse_args()
    corpus = stdlib()
    tokenizer = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=train(corpus["train"]["text"], args.size),
        bos_token=END,
        eos_token=END,
        pad_token=END,
        clean_up_tokenization_spaces=False,
    )
    tokenizer.save_pretrained(Path(args.out))
    for split, rows in corpus.items():
        size = sum(len(text.encode()) for text in rows["text"])
        print(f"{split}: {len(rows)} modules, {size:,} bytes, {check(tokenizer, rows['text']):.3f} bytes a token")


if __name__ == "__main__":
    main()
