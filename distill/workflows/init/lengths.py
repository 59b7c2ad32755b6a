"""How long the texts of a data set are, and the ``data.max_length`` that leaves (nearly) all of them whole."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from distill.core.task import TextTask
from distill.data import arrow
from distill.data.tokenize import load_for_batches

__all__ = ["chosen_length"]

_PART = 98  # per cent of the texts that stay whole
_WORTH = 2  # times that length, and all stay whole: a batch is as long as its longest text, so few are longer for it
_SAMPLED = 20_000
_STEP, _LEAST, _MOST = 16, 32, 512
_TOKENS_A_WORD, _BYTES_A_TOKEN = 1.4, 4.0


def chosen_length(
    task: TextTask, rows: Any, columns: Mapping[str, str], tokenizer: str | None, limit: int | None = None
) -> tuple[int, str]:
    """The length, and why it is that one, in words.

    Without a tokenizer a text is taken to have max(1.4 words, bytes / 4) tokens and its special ones: English has
    fewer, scripts without blanks about as many.

    Args:
        task: The task.
        rows: The training data; of more than 20,000 rows every n-th is read.
        columns: Role -> column.
        tokenizer: Folder or hub id, with which tokens are counted.
        limit: The most that it may be; 512 if not given.
    """
    some = rows.select(range(0, len(rows), 1 + len(rows) // _SAMPLED))
    texts = [arrow.column(some, columns[role]).to_pylist() for role in ("text", "text_pair") if role in columns]
    most = limit or _MOST
    if tokenizer is None:
        counts = _estimated(texts, task.words)
        how = "estimated from words and bytes; --tokenizer FOLDER counts them"
    else:
        loaded = load_for_batches(tokenizer, task)
        encoded = loaded(*texts, is_split_into_words=task.words, return_attention_mask=False, verbose=False)
        counts = np.array([len(ids) for ids in encoded["input_ids"]])
        how = "counted with that tokenizer"
        most = min(most, loaded.model_max_length)
    at = float(np.percentile(counts, _PART))
    length, whole = (max(_LEAST, _STEP * math.ceil(part / _STEP)) for part in (at, float(counts.max())))
    length = int(min(most, whole if whole <= _WORTH * length else length))
    over = float((counts > length).mean())
    cut = f"; {over:.1%} are longer and will be cut" if over else ""
    words = f"{_PART} % of the texts have at most {round(at)} tokens, the longest {int(counts.max())} ({how}){cut}"
    return length, words


def _estimated(texts: Sequence[Sequence[Any]], words: bool) -> Any:
    def one(text: Any) -> float:
        parts = text if words else text.split()
        return max(
            _TOKENS_A_WORD * len(parts), sum(len(p.encode("utf-8", "replace")) + 1 for p in parts) / _BYTES_A_TOKEN
        )

    sums = np.array([[one(text) for text in role] for role in texts]).sum(0)
    return np.ceil(sums + 1 + len(texts))
