"""One class, or one number, for a text or a pair of texts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from distill.core.column_look import ColumnLook, label_candidates, longest_text
from distill.core.padding import Side, pad, real_positions
from distill.core.signals import Batch
from distill.core.task import LabelForm
from distill.tasks.classes import Classes

__all__ = ["PAIRS", "SEVERAL", "TextClassification", "model_inputs"]

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


class TextClassification(Classes):
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
    def auto_model(self) -> Any:
        from transformers import AutoModelForSequenceClassification

        return AutoModelForSequenceClassification

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
        return Batch(
            inputs=inputs, labels=self.labels_of(features), tokens=tokens, ids=[sample["id"] for sample in features]
        )

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


def model_inputs(
    features: list[dict[str, Any]], tokenizer: Any, side: Side = "right"
) -> tuple[dict[str, Tensor], Tensor]:
    """An encoder's padded inputs, and which positions hold a token (boolean ``[B, T]``)."""
    tokens = torch.from_numpy(real_positions(features, side))
    inputs = {"input_ids": pad(features, "input_ids", tokenizer.pad_token_id, side), "attention_mask": tokens.long()}
    if "token_type_ids" in features[0]:
        inputs["token_type_ids"] = pad(features, "token_type_ids", tokenizer.pad_token_type_id, side)
    return inputs, tokens
