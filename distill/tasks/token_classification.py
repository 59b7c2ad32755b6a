"""A class for each word: named entities, parts of speech."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric

from distill.core.answer import Answer, Script, named, rounded
from distill.core.column_look import ColumnLook
from distill.core.padding import pad
from distill.core.signals import IGNORE, Batch
from distill.core.tally import Counts
from distill.core.task import Guess, LabelForm, TextTask
from distill.tasks.classes import class_head
from distill.tasks.metrics import Ratio
from distill.tasks.text_classification import model_inputs

__all__ = ["TokenClassification", "first_token_labels"]

OUTSIDE = "O"
"""The class of words that belong to nothing, in every scheme of entity tags."""

UNLABELLED = -1
"""Stored for a token at which there is a prediction, and no label to hold against it."""


class TokenClassification(TextTask):
    """Tags of words. A word's first token carries its tag, and is what counts, whether the word has a tag or the
    teacher alone says what it is; a word's other tokens and special ones do not count.

    Metrics, over words: ``accuracy`` and ``f1``, the micro-averaged F1 of the single tags, without the class
    ``O``. It is no entity-level score: half an entity counts for half.

    Args:
        labels: Names of the tags.
    """

    name: ClassVar[str] = "token-classification"
    columns: ClassVar[dict[str, tuple[str, ...]]] = {
        "text": ("tokens", "words"),
        "label": ("ner_tags", "tags", "labels", "pos_tags", "chunk_tags", "label"),
    }
    optional: ClassVar[frozenset[str]] = frozenset({"label"})
    takes: ClassVar[frozenset[LabelForm]] = frozenset({"tags"})
    words: ClassVar[bool] = True
    pipeline: ClassVar[str | None] = "token-classification"
    adapter: ClassVar[str | None] = "TOKEN_CLS"
    monitor = "f1"
    mode = "max"

    @property
    def auto_model(self) -> Any:
        from transformers import AutoModelForTokenClassification

        return AutoModelForTokenClassification

    def head_config(self) -> dict[str, Any]:
        return class_head(self.labels or ())

    def suits(self, columns: Sequence[ColumnLook], label: str | None) -> bool:
        words = any(one.listed and one.kind == "text" for one in columns)
        return words and not any(one.kind == "text" and not one.listed and one.length > 20 for one in columns)

    def encode(self, tokenizer: Any, max_length: int | None) -> Callable[[dict[str, list[Any]]], dict[str, list[Any]]]:
        return _Encode(tokenizer, max_length)

    def collate(self, features: list[dict[str, Any]], tokenizer: Any) -> Batch:
        inputs, tokens = model_inputs(features, tokenizer)
        stored = pad(features, "labels", IGNORE)
        mask = stored != IGNORE
        labels = torch.where(stored == UNLABELLED, IGNORE, stored)
        return Batch(inputs=inputs, labels=labels, mask=mask, tokens=tokens, ids=[f["id"] for f in features])

    def metrics(self) -> dict[str, Metric]:
        return {"accuracy": Ratio(), "f1": Ratio()}

    def means(self) -> dict[str, str]:
        return {"f1": "micro, of the single tags but O"}

    def update(self, metrics: Mapping[str, Metric], logits: Tensor, batch: Batch) -> None:
        if batch.labels is None:
            return
        labels, predicted = batch.labels, logits.argmax(-1)
        valid = labels != IGNORE
        right = (predicted == labels) & valid
        metrics["accuracy"].update(right, valid)
        outside = self._outside
        # F1 = 2 TP / (predicted tags + true tags), micro-averaged
        tags, guesses = valid & (labels != outside), valid & (predicted != outside)
        metrics["f1"].update(2 * (right & tags), tags.long() + guesses.long())

    @property
    def _outside(self) -> int:
        """The id of the class of words that belong to nothing."""
        return (self.labels or []).index(OUTSIDE) if OUTSIDE in (self.labels or []) else IGNORE

    def guess(self, counts: Counts, tokens: Tensor | None) -> Guess | None:
        n, outside = int(counts.labels.sum()), self._outside
        if not n:
            return None
        most = int(counts.labels.argmax())
        right = int(counts.labels[most])
        tags = n - (int(counts.labels[outside]) if outside != IGNORE else 0)
        f1 = 0.0 if most == outside else 2 * right / (tags + n)
        return Guess({"accuracy": right / n, "f1": f1}, self.always(most))

    @property
    def ranks(self) -> bool:
        return False

    def answers(
        self, logits: Tensor, batch: Batch, rows: Sequence[Mapping[str, Any]], tokenizer: Any, top: int | None
    ) -> list[Answer]:
        """The tag of each word, at its first token; ``None`` of a word that was cut off, or became no token.

        The batch's labels are the words' numbers.
        """
        assert batch.labels is not None
        scores, ids = logits.softmax(-1).max(-1)
        names, found = self.labels or [], []
        for number, row in enumerate(rows):
            tags: list[str | None] = [None] * len(row["text"])
            certain: list[float | None] = [None] * len(row["text"])
            for position in (batch.labels[number] != IGNORE).nonzero().flatten().tolist():
                word = int(batch.labels[number, position])
                tags[word] = names[int(ids[number, position])]
                certain[word] = rounded(scores[number, position])
            found.append({"tags": tags, "scores": certain})
        return found

    def nothing(self, row: Mapping[str, Any]) -> Answer:
        return {"tags": [None] * len(row["text"]), "scores": [None] * len(row["text"])}

    def fields(self, row: Mapping[str, Any], answer: Answer) -> list[list[str]]:
        words = zip(row["text"], answer["tags"], answer["scores"], strict=True)
        return [[word, *named(tag, score)] for word, tag, score in words]

    def script(self) -> Script:
        tagged = "labels.get(str(i), i) for i in logits[0].argmax(-1).tolist()"
        tokens = 'words = tokenizer.convert_ids_to_tokens(inputs["input_ids"][0].tolist())'
        return Script((tokens, f"print(list(zip(words, [{tagged}])))"), labels=True)


@dataclass(frozen=True)
class _Encode:
    tokenizer: Any
    max_length: int | None

    def __call__(self, columns: dict[str, list[Any]]) -> dict[str, list[Any]]:
        encoded = self.tokenizer(
            columns["text"],
            is_split_into_words=True,
            truncation=self.max_length is not None,
            max_length=self.max_length,
            return_attention_mask=False,
        )
        tags = columns.get("label") or [None] * len(columns["text"])
        given = [row or [IGNORE] * len(words) for row, words in zip(tags, columns["text"], strict=True)]
        labels = [first_token_labels(encoded.word_ids(i), row) for i, row in enumerate(given)]
        return {**encoded, "labels": labels}


def first_token_labels(words: list[int | None], tags: list[int]) -> np.ndarray[Any, np.dtype[np.int32]]:
    """The tag of each token that begins a word, :data:`~distill.core.signals.IGNORE` elsewhere.

    Args:
        words: Each token's word; ``None`` for special tokens, ``[T]``.
        tags: Each word's tag; :data:`~distill.core.signals.IGNORE` becomes :data:`UNLABELLED`.

    Returns:
        ``[T]``.
    """
    before = [None, *words[:-1]]
    stored = [UNLABELLED if tag == IGNORE else tag for tag in tags]
    return np.array(
        [IGNORE if w is None or w == b else stored[w] for w, b in zip(words, before, strict=True)], dtype=np.int32
    )
