"""Small tokenizers of two kinds, trained on a few lines, for teachers whose tokens are not the student's."""

from __future__ import annotations

import json
from typing import Any

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

LINES = [
    "def f(x):\n    return x + 1  # the answer is not here",
    "The weather in the north was cold, and the rivers were frozen over for weeks.",
    "naïve façade, Ωμέγα 漢字とかな 漢字 🙂🙂 déjà vu",
    "  leading spaces, trailing spaces  \n\n\ttabs and 1234567890 numbers 12 345",
] * 3


def byte_level(vocabulary: int, lines: list[str] = LINES, *, end: str = "<|end|>") -> Any:
    """Each character of a token stands for a byte; one token begins and ends texts."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, special_tokens=[end], initial_alphabet=alphabet, show_progress=False
    )
    made.train_from_iterator(lines, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=made, bos_token=end, eos_token=end, pad_token=end)


def spaced(vocabulary: int, lines: list[str] = LINES) -> Any:
    """As SentencePiece: a space is U+2581, one stands before each text, and unknown characters are single bytes."""
    made = Tokenizer(models.BPE())
    made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    ascii_only = ["".join(c for c in line if ord(c) < 128 and c != "\n") for line in lines]
    made.train_from_iterator(ascii_only, trainers.BpeTrainer(vocab_size=vocabulary, show_progress=False))
    state = json.loads(made.to_str())
    names = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    names += sorted(state["model"]["vocab"], key=state["model"]["vocab"].get)
    merges = [tuple(pair) for pair in state["model"]["merges"]]
    numbered = {name: number for number, name in enumerate(names)}
    model = models.BPE(numbered, merges, byte_fallback=True, unk_token="<unk>", fuse_unk=True)
    made = Tokenizer(model)
    made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    made.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=made, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="</s>"
    )


def lower_case(vocabulary: int) -> Any:
    """As :func:`byte_level`, of texts in lower case."""
    made = byte_level(vocabulary, [line.lower() for line in LINES])
    made.backend_tokenizer.normalizer = normalizers.Lowercase()
    return made
