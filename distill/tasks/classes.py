"""One class, or one number, for a row: how it is judged, and what it is to a person."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.classification import BinaryF1Score, MulticlassF1Score

from distill.core.answer import Answer, Script, alternatives, cells, digits, rounded
from distill.core.signals import IGNORE, Batch
from distill.core.tally import Counts
from distill.core.task import Guess, TextTask
from distill.tasks.metrics import Matthews, Pearson, Ratio, Spearman

__all__ = ["Classes", "class_head"]


class Classes(TextTask):
    """A task whose rows have one class each, or one number, whatever the rows are."""

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

    def head_config(self) -> dict[str, Any]:
        if self.regression:
            return {"num_labels": 1, "problem_type": "regression"}
        return class_head(self.labels or ()) | {"problem_type": "single_label_classification"}

    def labels_of(self, features: Sequence[Mapping[str, Any]]) -> Tensor | None:
        """The labels of samples, ``[B]``; ``None`` where they have none."""
        if "label" not in features[0]:
            return None
        labels = torch.from_numpy(np.array([sample["label"] for sample in features]))
        return labels.float() if self.regression else labels.long()

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
            return [[digits(answer["score"]), *cells(row)]]
        return [[*alternatives(answer.get("top") or [(answer["label"], answer["score"])]), *cells(row)]]

    def script(self) -> Script:
        return Script(("print(labels.get(str(logits[0].argmax())), logits[0].tolist(), text)",), labels=True)


def class_head(labels: Sequence[str]) -> dict[str, Any]:
    """What a model's configuration says of ``labels``."""
    return {
        "num_labels": len(labels),
        "id2label": dict(enumerate(labels)),
        "label2id": {label: i for i, label in enumerate(labels)},
    }
