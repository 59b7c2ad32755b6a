"""A task of one's own."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from torch import Tensor
from torchmetrics import Metric
from torchmetrics.classification import MulticlassRecall

from distill import IGNORE, Batch
from distill.core.tally import Counts
from distill.core.task import Guess
from distill.tasks import TextClassification

Rows = dict[str, list[Any]]


class TitledTexts(TextClassification):
    """Classification of texts that have a title; the best student is the one that finds every class alike."""

    name = "titled-texts"
    columns = TextClassification.columns | {"title": ("title", "headline")}  # the role, and columns known as it
    monitor = "balanced_accuracy"

    def encode(self, tokenizer: Any, max_length: int | None) -> Callable[[Rows], Rows]:
        return partial(titled, super().encode(tokenizer, max_length))

    def metrics(self) -> dict[str, Metric]:
        return super().metrics() | {"balanced_accuracy": MulticlassRecall(len(self.labels or ()))}

    def update(self, metrics: Mapping[str, Metric], logits: Tensor, batch: Batch) -> None:
        super().update(metrics, logits, batch)
        if batch.labels is not None:
            known = batch.labels != IGNORE
            metrics["balanced_accuracy"].update(logits[known].argmax(-1), batch.labels[known])

    def guess(self, counts: Counts, tokens: Tensor | None) -> Guess | None:  # what a constant scores
        best, classes = super().guess(counts, tokens), int((counts.labels > 0).sum())
        return best and best._replace(scores={**best.scores, "balanced_accuracy": 1 / classes})


def titled(encode: Callable[[Rows], Rows], rows: Rows) -> Rows:
    """What ``encode`` makes of each title with its text."""
    texts = [f"{title}: {text}" for title, text in zip(rows["title"], rows["text"], strict=True)]
    return encode(rows | {"text": texts})
