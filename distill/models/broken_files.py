"""What in a model's small files cannot be: named once transformers has failed, and where it loads it in silence."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers.activations import ACT2FN

from distill.core.utils.errors import nearest

__all__ = ["ORIGIN", "Culprit", "broken_json", "culprit", "read_mapping", "taken_in_silence"]

ORIGIN = "correct it, or take the file from the model's origin"
_TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
_ACTIVATION = re.compile(r"(\w*_)?(act|activation|activation_function|hidden_act|act_fn)")
_SHARE = re.compile(r"\w*(dropout|pdrop|dropout_prob|layerdrop)")
_REAL = re.compile(r"\w*(theta|eps|epsilon|factor|range|dropout|pdrop|_prob)")
_COUNT = re.compile(
    r"(hidden|intermediate|vocab)_size|num_(hidden_)?layers|num_(attention|key_value)_heads|d_model|d_ff|n_\w+"
)
_POSITIVE = re.compile(r"\w+_(eps|epsilon)|rope_theta")
_DTYPE = re.compile(r"(torch_)?dtype")
_LEAST = 2  # characters of a value that is found in a message by itself


class Culprit(NamedTuple):
    """An entry of a configuration that cannot be, and how to mend it."""

    name: str
    value: Any
    why: str
    hint: str

    def __str__(self) -> str:
        return f"{self.name} is {self.value!r}{self.why}"


def culprit(config: Mapping[str, Any], message: str) -> Culprit | None:
    """The entry of ``config`` that ``message``, which transformers failed with, is about; ``None`` if none is seen.

    What no model has comes first: an activation there is none of, a share beyond [0, 1], a text for a number,
    sizes below 1. Then a text that the message quotes, and the heads or the padding of which it speaks.
    """
    entries = list(_entries(config))
    rules = _activation, _share, _text_for_number, _below_one, _labels, _quoted(message)
    found = (one for rule in rules for name, value in entries if (one := rule(name, value)) is not None)
    return next(found, None) or _heads(config, message.lower()) or _padding(config, message.lower())


def taken_in_silence(config: Mapping[str, Any]) -> Culprit | None:
    """The first entry of ``config`` that cannot be and that transformers takes all the same; ``None`` if there is none.

    Such a model computes something: a root of a negative number where a variance is small, or nothing but zeros.
    """
    rules = _share, _text_for_number, _not_positive, _no_dtype
    found = (one for name, value in _entries(config) for rule in rules if (one := rule(name, value)) is not None)
    return next(found, None)


def _entries(config: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in config.items():
        if name in ("model_type", "_name_or_path"):  # which many messages quote
            continue
        if isinstance(value, Mapping) and name not in ("id2label", "label2id"):
            yield from _entries(value, f"{before}{name}.")
        else:
            yield f"{before}{name}", value


def _activation(name: str, value: Any) -> Culprit | None:
    if not _matches(_ACTIVATION, name) or not isinstance(value, str) or value in ACT2FN:
        return None
    return Culprit(name, value, ", which is no activation of transformers", nearest(value, ACT2FN.keys()))


def _share(name: str, value: Any) -> Culprit | None:
    if not _matches(_SHARE, name) or not isinstance(value, int | float) or 0 <= value <= 1:
        return None
    return Culprit(name, value, ", and must lie between 0 and 1", ORIGIN)


def _text_for_number(name: str, value: Any) -> Culprit | None:
    if isinstance(value, str) and _matches(_REAL, name):
        return Culprit(name, value, ", a text, and must be a number", ORIGIN)
    return None


def _not_positive(name: str, value: Any) -> Culprit | None:
    if value is None or isinstance(value, str) or not _matches(_POSITIVE, name):
        return None
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if number and value > 0 and math.isfinite(value):
        return None
    return Culprit(name, value, ", and must be a number above 0", ORIGIN)


def _no_dtype(name: str, value: Any) -> Culprit | None:
    if value in (None, "auto") or not _matches(_DTYPE, name):
        return None
    dtype = getattr(torch, value.removeprefix("torch."), None) if isinstance(value, str) else None
    if isinstance(dtype, torch.dtype) and dtype.is_floating_point:
        return None
    return Culprit(name, value, ", and must be a type of floating-point numbers, as 'float32'", ORIGIN)


def _below_one(name: str, value: Any) -> Culprit | None:
    counted = isinstance(value, int) and not isinstance(value, bool) and _matches(_COUNT, name)
    return Culprit(name, value, ", and must be at least 1", ORIGIN) if counted and value < 1 else None


def _labels(name: str, value: Any) -> Culprit | None:
    if name != "id2label" or value is None:
        return None
    if isinstance(value, Mapping) and all(str(key).isdecimal() for key in value):
        return None
    return Culprit(name, value, ', and must be a mapping of numbers to names, as {"0": "no", "1": "yes"}', ORIGIN)


def _quoted(message: str) -> Callable[[str, Any], Culprit | None]:
    def rule(name: str, value: Any) -> Culprit | None:
        quoted = isinstance(value, str) and len(value) >= _LEAST
        if not quoted or not re.search(f"['\"`]{re.escape(value)}['\"`]", message):
            return None
        return Culprit(name, value, "", ORIGIN)

    return rule


def _heads(config: Mapping[str, Any], message: str) -> Culprit | None:
    width, heads = config.get("hidden_size"), config.get("num_attention_heads")
    if (
        "head" not in message
        or not isinstance(width, int)
        or not isinstance(heads, int)
        or not width % (heads or width)
    ):
        return None
    return Culprit("num_attention_heads", heads, f", which does not divide hidden_size, {width}", ORIGIN)


def _padding(config: Mapping[str, Any], message: str) -> Culprit | None:
    padding, rows = config.get("pad_token_id"), config.get("vocab_size")
    if "padding" not in message or not isinstance(padding, int) or not isinstance(rows, int) or padding < rows:
        return None
    return Culprit("pad_token_id", padding, f", and the vocabulary has the ids up to {rows - 1}", ORIGIN)


def _matches(pattern: re.Pattern[str], name: str) -> bool:
    return pattern.fullmatch(name.rpartition(".")[2]) is not None


def read_mapping(file: Path) -> Mapping[str, Any]:
    """What a file of JSON holds; nothing where it is missing or is no mapping."""
    try:
        held = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return held if isinstance(held, Mapping) else {}


def broken_json(folder: Path, *more: str) -> str | None:
    """The first of a tokenizer's files, or of those named, that is no mapping in JSON, and why; ``None`` if all are."""
    for name in more or _TOKENIZER:
        if not (folder / name).is_file():
            continue
        try:
            held = json.loads((folder / name).read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            return f"its {name} is no JSON ({error})"
        if not isinstance(held, dict) or not held:
            return f"its {name} is {'empty' if not held else 'no mapping'}"
    return None
