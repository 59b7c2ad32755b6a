"""How relevant a passage is to a query, by a model that reads both at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torchmetrics import Metric

from distill.core.answer import Answer, Script, cells, digits, rounded
from distill.core.column_look import ColumnLook
from distill.core.signals import Batch, OutputKind
from distill.core.tally import Counts
from distill.core.task import GROUP, Guess, LabelForm, TextTask
from distill.core.utils.errors import UserError
from distill.tasks.ranking_scores import NDCG, TOP, ReciprocalRank
from distill.tasks.text_classification import SEVERAL, TextClassification

__all__ = ["Reranking"]


class Reranking(TextClassification):
    """Reranking by a cross-encoder: one number for a query and a passage, by which a query's passages are ranked.

    A row is a pair; those whose queries are the same text are one query's. Its label is how relevant the passage is,
    from 0 to 1, and the model's output s says so as sigmoid(s). Metrics, each query once, of its first 10 places:
    ``ndcg`` and ``mrr`` (:mod:`distill.tasks.ranking_scores`). A query of which no passage is relevant is not judged.

    Args:
        labels: Not used.
    """

    name: ClassVar[str] = "reranking"
    columns: ClassVar[dict[str, tuple[str, ...]]] = {
        "text": ("query", "question", "anchor", "claim"),
        "text_pair": ("passage", "document", "text", "context", "answer", "response"),
        "label": ("label", "relevance", "score", "is_selected", "labels"),
    }
    optional: ClassVar[frozenset[str]] = frozenset({"label"})
    takes: ClassVar[frozenset[LabelForm]] = frozenset({"number"})
    between: ClassVar[tuple[float, float] | None] = (0.0, 1.0)
    outputs: ClassVar[OutputKind] = "labels"
    by_sample: ClassVar[bool] = False
    together: ClassVar[str | None] = "text"
    shown: ClassVar[Mapping[str, str]] = {"text": "query", "text_pair": "passage"}
    monitor = "ndcg"

    def __init__(self, labels: Sequence[str] | None = None) -> None:
        super().__init__(None)

    def head_config(self) -> dict[str, Any]:
        return {"num_labels": 1}

    def opens(self, config: Any) -> bool:
        one = getattr(config, "num_labels", 1) == 1
        return TextTask.opens(self, config) and one and getattr(config, "problem_type", None) in (None, SEVERAL)

    def meet_models(self, student: nn.Module, teachers: Sequence[nn.Module] | None) -> None:
        keys = [f"model.teacher.{i}" if i else "model.teacher" for i in range(len(teachers or ()))]
        for key, model in zip(["model.student", *keys], [student, *(teachers or ())], strict=True):
            count = getattr(getattr(model, "config", None), "num_labels", 1)
            if count != 1:
                problem = f"has {count} outputs, and a reranker one: how relevant the passage is"
                hint = "name a cross-encoder of one output, or train on the classes by text-classification"
                raise UserError(problem, key=key, hint=hint)

    def find_columns(self, names: Sequence[str]) -> dict[str, str]:
        return TextTask.find_columns(self, names)

    def suits(self, columns: Sequence[ColumnLook], label: str | None) -> bool:
        names = {one.name.lower(): one for one in columns}
        found = names.get(label or self.find_columns(list(names)).get("label", ""))
        return "query" in names and bool(names.keys() & {"passage", "document"}) and found is not None

    def encode(self, tokenizer: Any, max_length: int | None) -> Callable[[dict[str, list[Any]]], dict[str, list[Any]]]:
        return _Encode(super().encode(tokenizer, max_length))

    def collate(self, features: list[dict[str, Any]], tokenizer: Any) -> Batch:
        batch = super().collate(features, tokenizer)
        labels = None if batch.labels is None else batch.labels[:, None]
        query = torch.from_numpy(np.array([sample[GROUP] for sample in features], dtype=np.int64))
        mask = torch.ones(len(features), dtype=torch.bool)  # a pair is one prediction, with a label or without
        return replace(batch, labels=labels, mask=mask, extras={GROUP: query, "row": torch.tensor(batch.ids)})

    def metrics(self) -> dict[str, Metric]:
        return {"ndcg": NDCG(), "mrr": ReciprocalRank()}

    def means(self) -> dict[str, str]:
        return {"ndcg": f"of each query's first {TOP}, linear gains", "mrr": f"of the first relevant among {TOP}"}

    def update(self, metrics: Mapping[str, Metric], logits: Tensor, batch: Batch) -> None:
        # Each is told of every batch, if only of nothing in it: all ranks gather what they have.
        labels = logits.new_full((len(logits),), torch.nan) if batch.labels is None else batch.labels[:, 0]
        judged = ~labels.isnan()
        for metric in metrics.values():
            parts = (batch.extras[GROUP], batch.extras["row"], logits[:, 0], labels)
            metric.update(*(part[judged.to(part.device)] for part in parts))

    def predict(self, logits: Tensor) -> Tensor | None:
        return None

    def guess(self, counts: Counts, tokens: Tensor | None) -> Guess | None:
        return None  # it depends on how many passages each query has, which the metrics know

    def answers(
        self, logits: Tensor, batch: Batch, rows: Sequence[Mapping[str, Any]], tokenizer: Any, top: int | None
    ) -> list[Answer]:
        """The ``score`` of each pair: the output as it is, which tells apart what sigmoid has close to 1."""
        return [{"score": rounded(row)} for row in logits.flatten()]

    def nothing(self, row: Mapping[str, Any]) -> Answer:
        return {"score": None}

    def fields(self, row: Mapping[str, Any], answer: Answer) -> list[list[str]]:
        return [[digits(answer["score"]), *cells(row)]]

    def script(self) -> Script:
        return Script(("print(float(logits[0, 0]), text)",))


@dataclass(frozen=True)
class _Encode:
    """Pairs to features, with a number of each pair's query that depends on its text alone."""

    pairs: Callable[[dict[str, list[Any]]], dict[str, list[Any]]]

    def __call__(self, columns: dict[str, list[Any]]) -> dict[str, list[Any]]:
        return self.pairs(columns) | {GROUP: [_number(str(text)) for text in columns["text"]]}


def _number(text: str) -> int:
    """63 bits of a hash of a text."""
    return int.from_bytes(blake2b(text.strip().encode(), digest_size=8).digest(), "big") >> 1
