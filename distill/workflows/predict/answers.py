"""What a model says of a row: as a mapping, which jsonl shows, and as a line of text."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor

from distill.core.signals import IGNORE, Batch
from distill.core.task import TextTask
from distill.core.utils.visible import HIDDEN, visible
from distill.tasks import CausalLM, MaskedLM, MultiLabelClassification, TextClassification, TokenClassification
from distill.tasks.metrics import negative_log_likelihood

__all__ = ["Answer", "Answers", "answers_of", "as_json", "as_text", "nothing"]

Answer = dict[str, Any]
Answers = Callable[[Tensor, Batch, Sequence[Mapping[str, Any]]], list[Answer]]
"""Logits, their batch and its rows to an answer a row."""

NONE = "-"
"""In a line of text, what stands where there is no label."""


def answers_of(task: TextTask, tokenizer: Any, top: int | None) -> Answers:
    """What makes answers of the logits of a model of ``task``.

    Args:
        task: With its classes.
        tokenizer: The model's.
        top: How many alternatives are named; for masks five if not given, else none beside the prediction.
    """
    if isinstance(task, MultiLabelClassification):
        return lambda logits, batch, rows: [_set(task, row, top) for row in logits]
    if isinstance(task, TextClassification):
        if task.regression:
            return lambda logits, batch, rows: [{"score": _rounded(row)} for row in logits.flatten()]
        return lambda logits, batch, rows: [_class(task, row, top) for row in logits.softmax(-1)]
    if isinstance(task, TokenClassification):
        return lambda logits, batch, rows: _tags(task, logits, batch, rows)
    if isinstance(task, MaskedLM):
        return lambda logits, batch, rows: _fillings(tokenizer, logits, batch, top or 5)
    return lambda logits, batch, rows: _bits(logits, batch)


def nothing(task: TextTask, row: Mapping[str, Any]) -> Answer:
    """The answer to a row of which the tokenizer makes nothing."""
    if isinstance(task, TokenClassification):
        return {"tags": [None] * len(row["text"]), "scores": [None] * len(row["text"])}
    if isinstance(task, MaskedLM):
        return {"fillings": []}
    if isinstance(task, CausalLM):
        return {"completion": "", "bits_per_byte": None}
    if isinstance(task, MultiLabelClassification):
        return {"labels": [], "scores": {}}
    return (
        {"score": None} if isinstance(task, TextClassification) and task.regression else {"label": None, "score": None}
    )


def _rounded(value: Tensor) -> float:
    """Six digits: more of them differ from batch to batch."""
    return float(f"{float(value):.6g}")


def _class(task: TextTask, probabilities: Tensor, top: int | None) -> Answer:
    names = task.labels or []
    scores, ids = probabilities.topk(min(top or 1, len(names)))
    best = int(probabilities.argmax())
    answer: Answer = {"label": names[best], "score": _rounded(probabilities[best])}
    if top is not None:
        answer["top"] = {names[i]: _rounded(score) for i, score in zip(ids.tolist(), scores, strict=True)}
    return answer


def _set(task: MultiLabelClassification, logits: Tensor, top: int | None) -> Answer:
    names, probabilities = task.labels or [], logits.sigmoid()
    order = probabilities.argsort(descending=True, stable=True).tolist()
    predicted = [i for i in order if task.predict(logits)[i]]
    named = predicted if top is None else order[:top]
    scores = {names[i]: _rounded(probabilities[i]) for i in named}
    return {"labels": [names[i] for i in predicted], "scores": scores}


def _tags(task: TextTask, logits: Tensor, batch: Batch, rows: Sequence[Mapping[str, Any]]) -> list[Answer]:
    """The tag of each word, at its first token; ``None`` of a word that was cut off, or became no token.

    The batch's labels are the words' numbers.
    """
    assert batch.labels is not None
    scores, ids = logits.softmax(-1).max(-1)
    names, found = task.labels or [], []
    for number, row in enumerate(rows):
        tags: list[str | None] = [None] * len(row["text"])
        certain: list[float | None] = [None] * len(row["text"])
        for position in (batch.labels[number] != IGNORE).nonzero().flatten().tolist():
            word = int(batch.labels[number, position])
            tags[word] = names[int(ids[number, position])]
            certain[word] = _rounded(scores[number, position])
        found.append({"tags": tags, "scores": certain})
    return found


def _fillings(tokenizer: Any, logits: Tensor, batch: Batch, top: int) -> list[Answer]:
    """The most probable tokens at each mask."""
    found = []
    for row, ids in zip(logits, batch.inputs["input_ids"], strict=True):
        scores, tokens = row[ids == tokenizer.mask_token_id].softmax(-1).topk(min(top, row.shape[-1]))
        masks = zip(scores, tokens.tolist(), strict=True)
        best = [[(tokenizer.decode([i]).strip(), _rounded(s)) for i, s in zip(t, p, strict=True)] for p, t in masks]
        found.append({"fillings": [[{"token": token, "score": score} for token, score in mask] for mask in best]})
    return found


def _bits(logits: Tensor, batch: Batch) -> list[Answer]:
    """The metric of validation, of each text by itself: -sum log2 p over its bytes."""
    assert batch.labels is not None
    nats = negative_log_likelihood(logits, batch.labels).masked_fill(batch.labels == IGNORE, 0).sum(-1)
    bits = nats / math.log(2) / batch.extras["bytes"].sum(-1)
    return [{"bits_per_byte": _rounded(value)} for value in bits]


# ---------------------------------------------------------------------- shown


def as_json(row: Mapping[str, Any], answer: Answer) -> str:
    """One object in one line: the row's texts under their roles, and the answer."""
    texts = {"words" if isinstance(value, list) else role: value for role, value in row.items()}
    line = json.dumps(texts | answer, ensure_ascii=False)
    return HIDDEN.sub(lambda match: f"\\u{ord(match[0]):04x}", line)


def as_text(row: Mapping[str, Any], answer: Answer) -> str:
    """Fields with tabs between them, the prediction before the text; of words, and of masks, a line for each."""
    if "tags" in answer:
        words = zip(row["text"], answer["tags"], answer["scores"], strict=True)
        return "".join(f"{_fields(word, *_named(tag, score))}\n" for word, tag, score in words)
    if "fillings" in answer:
        masks = [
            [part for each in mask for part in _named(each["token"], each["score"])] for mask in answer["fillings"]
        ]
        return "\n".join(_fields(*parts, row["text"]) for parts in masks or [_named(None, None)])
    if "completion" in answer:
        return _fields(row["text"], answer["completion"])
    if "labels" in answer:
        scores = answer["scores"]
        named = [",".join(scores) or NONE, ",".join(map(_digits, scores.values())) or NONE]
    elif "label" not in answer:
        named = [_digits(answer["score"])]
    else:
        alternatives = answer.get("top") or {answer["label"]: answer["score"]}
        named = [part for label, score in alternatives.items() for part in _named(label, score)]
    return _fields(*named, *row.values())


def _named(label: str | None, score: float | None) -> list[str]:
    return [NONE if label is None else label, _digits(score)]


def _digits(score: float | None) -> str:
    return NONE if score is None else f"{score:.4f}"


_BREAKS = str.maketrans({"\t": r"\t", "\n": r"\n", "\r": r"\r"})


def _fields(*fields: str) -> str:
    return "\t".join(visible(field.translate(_BREAKS)) for field in fields)
