"""One class, or one number, for a text or a pair of texts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.classification import BinaryF1Score, MulticlassF1Score

from distill.core.answer import Answer, Script, alternatives, digits, rounded
from distill.core.column_look import ColumnLook, label_candidates, longest_text
from distill.core.padding import Side, pad, real_positions
from distill.core.signals import IGNORE, Batch
from distill.core.tally import Counts
from distill.core.task import Guess, LabelForm, TextTask
from distill.tasks.metrics import Matthews, Pearson, Ratio, Spearman

__all__ = ["PAIRS", "SEVERAL", "TextClassification", "class_head", "model_inputs"]

SEVERAL = "multi_label_classification"
"""What a configuration says of a head whose classes are a yes or no each."""

PAIRS = (
    ("sentence1", "sentence2"),
    ("premise", "hypothesis"),
    ("question1", "question2"),
    ("question", "sentence"),
    ("text", "text_pair"),
    ("text1", "text2"),
)


class TextClassification(TextTask):
    """Classification of texts or pairs of texts; regression where the labels are numbers (STS-B).

    Metrics of classes: ``accuracy``, ``f1`` (of class 1 where there are two, else the mean over the classes)
    and ``matthews``. Metrics of regression: ``pearson`` and ``spearman``. Rows without a label are not judged.

    Args:
        labels: Names of the classes; ``None`` or a single one is regression.
    """

    name: ClassVar[str] = "text-classification"
    columns: ClassVar[dict[str, tuple[str, ...]]] = {
        "text": ("sentence", "text", "review", "content", "comment"),
        "text_pair": (),
        "label": ("label", "labels", "score", "target", "class"),
    }
    optional: ClassVar[frozenset[str]] = frozenset({"text_pair", "label"})
    takes: ClassVar[frozenset[LabelForm]] = frozenset({"class", "number"})
    sides: ClassVar[tuple[Side, ...]] = ("right", "left")
    pipeline: ClassVar[str | None] = "text-classification"
    adapter: ClassVar[str | None] = "SEQ_CLS"

    @property
    def regression(self) -> bool:
        return self.labels is None or len(self.labels) == 1

    _monitor: str | None = None

    @property
    def monitor(self) -> str:
        return self._monitor or ("pearson" if self.regression else "accuracy")

    @monitor.setter
    def monitor(self, metric: str) -> None:
        self._monitor = metric

    mode = "max"

    @property
    def auto_model(self) -> Any:
        from transformers import AutoModelForSequenceClassification

        return AutoModelForSequenceClassification

    def head_config(self) -> dict[str, Any]:
        if self.regression:
            return {"num_labels": 1, "problem_type": "regression"}
        return class_head(self.labels or ()) | {"problem_type": "single_label_classification"}

    def opens(self, config: Any) -> bool:
        return super().opens(config) and getattr(config, "problem_type", None) != SEVERAL

    def find_columns(self, names: Sequence[str]) -> dict[str, str]:
        found = super().find_columns(names)
        for first, second in PAIRS:
            if first in names and second in names:
                return found | {"text": first, "text_pair": second}
        return found

    def suits(self, columns: Sequence[ColumnLook], label: str | None) -> bool:
        text = longest_text([one for one in columns if one.kind == "text" and not one.listed])
        named = label is not None or self.recognize(columns, "label")
        return bool(named or label_candidates(columns, listed=False, taken=[text]))

    def encode(self, tokenizer: Any, max_length: int | None) -> Callable[[dict[str, list[Any]]], dict[str, list[Any]]]:
        return _Encode(tokenizer, max_length)

    def collate(self, features: list[dict[str, Any]], tokenizer: Any) -> Batch:
        inputs, tokens = model_inputs(features, tokenizer, self.side)
        labels = torch.from_numpy(np.array([f["label"] for f in features])) if "label" in features[0] else None
        if labels is not None:
            labels = labels.float() if self.regression else labels.long()
        return Batch(inputs=inputs, labels=labels, tokens=tokens, ids=[sample["id"] for sample in features])

    def metrics(self) -> dict[str, Metric]:
        if self.regression:
            return {"pearson": Pearson(), "spearman": Spearman()}
        count = len(self.labels or ())
        f1 = BinaryF1Score() if count == 2 else MulticlassF1Score(count, average="macro", validate_args=False)
        return {"accuracy": Ratio(), "f1": f1, "matthews": Matthews(count, validate_args=False)}

    def means(self) -> dict[str, str]:
        if self.regression:
            return {}
        two = len(self.labels or ()) == 2
        return {"f1": f"of class {self.class_name(1)}" if two else "macro, the mean over the classes"}

    def update(self, metrics: Mapping[str, Metric], logits: Tensor, batch: Batch) -> None:
        if batch.labels is None:
            return
        labelled = ~batch.labels.isnan() if self.regression else batch.labels != IGNORE
        logits, labels = logits[labelled], batch.labels[labelled]
        if not len(labels):
            return
        if self.regression:
            for metric in metrics.values():
                metric.update(logits.float().squeeze(-1), labels.float())
            return
        predicted = logits.argmax(-1)
        metrics["accuracy"].update(predicted == labels, torch.ones_like(labels))
        metrics["f1"].update(predicted, labels)
        metrics["matthews"].update(predicted, labels)

    def predict(self, logits: Tensor) -> Tensor | None:
        return None if self.regression else logits.argmax(-1)

    def guess(self, counts: Counts, tokens: Tensor | None) -> Guess | None:
        if not counts.total:
            return None
        if self.regression:
            return Guess({"pearson": 0.0, "spearman": 0.0}, "the mean")
        n, most = int(counts.labels.sum()), int(counts.labels.argmax())
        share = int(counts.labels[most]) / n
        f1 = 2 * share / (1 + share)  # every one of the class is found, and `share` of what is said is right
        if len(self.labels or ()) == 2:
            f1 = f1 if most == 1 else 0.0
        else:
            f1 /= int((counts.labels > 0).sum())
        return Guess({"accuracy": share, "f1": f1, "matthews": 0.0}, self.always(most))

    @property
    def ranks(self) -> bool:
        return not self.regression

    def answers(
        self, logits: Tensor, batch: Batch, rows: Sequence[Mapping[str, Any]], tokenizer: Any, top: int | None
    ) -> list[Answer]:
        if self.regression:
            return [{"score": rounded(row)} for row in logits.flatten()]
        return [self._answer(row, top) for row in logits.softmax(-1)]

    def _answer(self, probabilities: Tensor, top: int | None) -> Answer:
        names = self.labels or []
        scores, ids = probabilities.topk(min(top or 1, len(names)))
        best = int(probabilities.argmax())
        answer: Answer = {"label": names[best], "score": rounded(probabilities[best])}
        if top is not None:
            answer["top"] = {names[i]: rounded(score) for i, score in zip(ids.tolist(), scores, strict=True)}
        return answer

    def nothing(self, row: Mapping[str, Any]) -> Answer:
        return {"score": None} if self.regression else {"label": None, "score": None}

    def fields(self, row: Mapping[str, Any], answer: Answer) -> list[list[str]]:
        if self.regression:
            return [[digits(answer["score"]), *row.values()]]
        return [[*alternatives(answer.get("top") or [(answer["label"], answer["score"])]), *row.values()]]

    def script(self) -> Script:
        return Script(("print(labels.get(str(logits[0].argmax())), logits[0].tolist(), text)",), labels=True)

    def pipeline_arguments(self, max_length: int) -> dict[str, Any]:
        return {"truncation": True, "max_length": max_length}


@dataclass(frozen=True)
class _Encode:
    tokenizer: Any
    max_length: int | None

    def __call__(self, columns: dict[str, list[Any]]) -> dict[str, list[Any]]:
        texts = [columns[role] for role in ("text", "text_pair") if role in columns]
        encoded = self.tokenizer(
            *texts, truncation=self.max_length is not None, max_length=self.max_length, return_attention_mask=False
        )
        return dict(encoded) | ({"label": columns["label"]} if "label" in columns else {})


def class_head(labels: Sequence[str]) -> dict[str, Any]:
    """What a model's configuration says of ``labels``."""
    return {
        "num_labels": len(labels),
        "id2label": dict(enumerate(labels)),
        "label2id": {label: i for i, label in enumerate(labels)},
    }


def model_inputs(
    features: list[dict[str, Any]], tokenizer: Any, side: Side = "right"
) -> tuple[dict[str, Tensor], Tensor]:
    """An encoder's padded inputs, and which positions hold a token (boolean ``[B, T]``)."""
    tokens = torch.from_numpy(real_positions(features, side))
    inputs = {"input_ids": pad(features, "input_ids", tokenizer.pad_token_id, side), "attention_mask": tokens.long()}
    if "token_type_ids" in features[0]:
        inputs["token_type_ids"] = pad(features, "token_type_ids", tokenizer.pad_token_type_id, side)
    return inputs, tokens
