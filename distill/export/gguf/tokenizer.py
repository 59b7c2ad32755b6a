"""A tokenizer as GGUF describes it: tokens, merges, and the name by which llama.cpp knows how it cuts a text first."""

from __future__ import annotations

import json
from typing import Any

from distill.core.utils.errors import UserError

__all__ = ["add_tokenizer", "pre_tokenizer_name"]

_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_SPLITS = {_WORDS + r"\p{N}" + _REST: "qwen2", _WORDS + r"\p{N}{1,3}" + _REST: "llama-bpe"}
"""Regular expression of a split before the bytes -> llama.cpp's name of it."""

_NORMAL, _CONTROL, _USER_DEFINED, _UNUSED = 1, 3, 4, 5


def pre_tokenizer_name(tokenizer: Any) -> str:
    """llama.cpp's name of what a byte-level tokenizer does before it merges.

    Raises:
        UserError: if llama.cpp knows no such.
    """
    made = json.loads(tokenizer.backend_tokenizer.to_str())
    found = _name(made.get("pre_tokenizer")) if made["model"]["type"] == "BPE" else None
    normalizer = (made.get("normalizer") or {}).get("type")
    if found is None or normalizer not in ((None, "NFC") if found == "qwen2" else (None,)):
        problem = "llama.cpp knows no tokenizer that cuts texts as this student's does, and would read other tokens"
        hint = "byte-level tokenizers as of GPT-2, SmolLM, Qwen2 and Llama 3 can be written; export with --to onnx"
        raise UserError(problem, key="--to", value="gguf", hint=hint)
    return found


def _name(step: Any) -> str | None:
    parts = step["pretokenizers"] if step and step["type"] == "Sequence" else [step]
    match parts:
        case [{"type": "ByteLevel", "use_regex": True, "add_prefix_space": False}]:
            return "gpt-2"
        case [{"type": "Digits", "individual_digits": True}, {"type": "ByteLevel", "use_regex": True, **rest}]:
            return None if rest.get("add_prefix_space") else "smollm"
        case [{"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated"}, {"type": "ByteLevel", **rest}]:
            return None if rest.get("use_regex") or rest.get("add_prefix_space") else _SPLITS.get(pattern)
    return None


def add_tokenizer(writer: Any, tokenizer: Any, rows: int) -> None:
    """Write the tokenizer's part.

    Args:
        writer: A ``gguf.GGUFWriter``.
        tokenizer: Byte-level, of transformers.
        rows: Of the model's table; ids without a token get a name that no text has.

    Raises:
        UserError: see :func:`pre_tokenizer_name`.
    """
    pre = pre_tokenizer_name(tokenizer)
    merges = json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]
    names = {number: token for token, number in tokenizer.get_vocab().items()}
    added = tokenizer.added_tokens_decoder
    kinds = []
    for number in range(rows):
        if number in added:
            kinds.append(_CONTROL if added[number].special else _USER_DEFINED)
        else:
            kinds.append(_NORMAL if number in names else _UNUSED)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list([names.get(number, f"[UNUSED{number}]") for number in range(rows)])
    writer.add_token_types(kinds)
    writer.add_token_merges([pair if isinstance(pair, str) else " ".join(pair) for pair in merges])
    for add, number in (
        (writer.add_bos_token_id, tokenizer.bos_token_id),
        (writer.add_eos_token_id, tokenizer.eos_token_id),
        (writer.add_pad_token_id, tokenizer.pad_token_id),
        (writer.add_unk_token_id, tokenizer.unk_token_id),
    ):
        if number is not None:
            add(number)
    ids = tokenizer("a")["input_ids"]
    writer.add_add_bos_token(tokenizer.bos_token_id is not None and ids[0] == tokenizer.bos_token_id)
    writer.add_add_eos_token(tokenizer.eos_token_id is not None and ids[-1] == tokenizer.eos_token_id)
    if tokenizer.chat_template:
        writer.add_chat_template(tokenizer.chat_template)
