"""Small encoder-decoders of three kinds, and a tokenizer of single letters."""

from __future__ import annotations

import json
import random
import string
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    MarianConfig,
    MarianMTModel,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
)

KINDS = ("t5", "bart", "marian")


def letters() -> Any:
    """Each letter is a token; texts end with ``</s>``."""
    pieces = ["<pad>", "</s>", "<unk>", *string.ascii_lowercase, " ", ":"]
    made = Tokenizer(models.WordLevel({piece: i for i, piece in enumerate(pieces)}, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    made.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    made.decoder = decoders.Fuse()
    special = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    return PreTrainedTokenizerFast(tokenizer_object=made, model_max_length=64, **special)


def encoder_decoder(kind: str, layers: tuple[int, int] = (2, 2), seed: int = 0, width: int = 16, **more: Any) -> Any:
    """A T5, BART or Marian of fresh weights, larger than usual, so that its predictions differ from each other.

    Args:
        kind: One of :data:`KINDS`.
        layers: Of its encoder and decoder.
        seed: Of the weights.
        width: Of its layers.
        more: Of its configuration.
    """
    torch.manual_seed(seed)
    size, special = len(letters()), {"pad_token_id": 0, "eos_token_id": 1}
    if kind == "t5":
        sizes = {"d_model": width, "d_kv": width // 2, "d_ff": 2 * width, "num_heads": 2, "initializer_factor": 2.0}
        depth = {"num_layers": layers[0], "num_decoder_layers": layers[1], "decoder_start_token_id": 0}
        return T5ForConditionalGeneration(T5Config(vocab_size=size, **sizes, **depth, **special, **more)).eval()
    heads = {f"{stack}_attention_heads": 2 for stack in ("encoder", "decoder")}
    widths = {"d_model": width, "encoder_ffn_dim": 2 * width, "decoder_ffn_dim": 2 * width, "init_std": 0.4}
    sizes = {"vocab_size": size, "max_position_embeddings": 64, **heads, **widths, **special}
    depth = {"encoder_layers": layers[0], "decoder_layers": layers[1]}
    if kind == "bart":
        config: Any = BartConfig(**sizes, **depth, bos_token_id=2, decoder_start_token_id=1, **more)
        return BartForConditionalGeneration(config).eval()
    return MarianMTModel(MarianConfig(**sizes, **depth, decoder_start_token_id=0, **more)).eval()


def save(model: Any, folder: Path) -> str:
    """The model and its tokenizer, as a user has them."""
    model.save_pretrained(folder)
    letters().save_pretrained(folder)
    return str(folder)


def recipe(folder: Path, **model: Any) -> dict[str, Any]:
    """A configuration: a small T5 that a larger one teaches, in files below ``folder``.

    Args:
        folder: Of teacher, student and data.
        model: What is changed in the section ``model``.
    """
    return {
        "runs": str(folder / "runs"),
        "model": {
            "task": "seq2seq",
            "teacher": save(encoder_decoder("t5", seed=1), folder / "teacher"),
            "student": {"path": save(encoder_decoder("t5", (1, 1), seed=2), folder / "small")},
            "losses": [{"class_path": "HintonKL"}, {"class_path": "CrossEntropy", "init_args": {"weight": 0.5}}],
            **model,
        },
        "data": {
            "files": write_rows(folder),
            **{"prefix": "p: ", "max_length": 16, "max_target_length": 12, "batch_size": 8},
        },
        "trainer": {"max_epochs": 2, "accelerator": "cpu", "enable_progress_bar": False},
        "logging": {"tensorboard": False},
    }


def write_rows(folder: Path, names: tuple[str, str] = ("train.jsonl", "validation.jsonl")) -> dict[str, str]:
    """Words to be written backwards, as jsonl: use -> file."""
    draw, files = random.Random(0), {}
    for use, count, name in zip(("train", "validation"), (24, 8), names, strict=True):
        rows = ["".join(draw.choice("abcdef") for _ in range(1 + i % 8)) for i in range(count)]
        lines = [json.dumps({"source": word, "target": word[::-1]}) + "\n" for word in rows]
        files[use] = str(folder / name)
        Path(files[use]).write_text("".join(lines), encoding="utf-8")
    return files
