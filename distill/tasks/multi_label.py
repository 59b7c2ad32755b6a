"""Any number of classes for a text or a pair of texts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.classification import MultilabelF1Score

from distill.core.answer import NONE, Answer, Script, digits, rounded
from distill.core.column_look import USUAL_LABELS, ColumnLook
from distill.core.signals import Batch, OutputKind
from distill.core.tally import Counts
from distill.core.task import Guess, LabelForm, TextTask
from distill.core.utils.errors import UserError
from distill.tasks.classes import class_head
from distill.tasks.metrics import Ratio
from distill.tasks.text_classification import SEVERAL, TextClassification, model_inputs

__all__ = ["MultiLabelClassification"]


class MultiLabelClassification(TextClassification):
    """Classification in which each class is a yes or no of its own: topics, tags, toxicity.

    A row's label is a list of names or ids, or 0 or 1 (or a probability) for every class; a row without one is
    not judged. Metrics, of the classes whose probability is above the threshold: ``f1_micro`` (over all decisions),
    ``f1_macro`` (the mean over the classes) and ``subset_accuracy`` (the part of the rows whose every class is right).

    Args:
        labels: Names of the classes.
        threshold: A class is predicted where sigmoid(logit) is greater, in (0, 1).
    """

    name: ClassVar[str] = "multi-label-classification"
    takes: ClassVar[frozenset[LabelForm]] = frozenset({"set"})
    outputs: ClassVar[OutputKind] = "labels"
    lends = (TextClassification.name, ("--model.losses", "[BinaryCrossEntropy]"))
    monitor = "f1_micro"

    def __init__(self, labels: Sequence[str] | None = None, threshold: float = 0.5) -> None:
        super().__init__(labels)
        if not 0 < threshold < 1:
            problem = "must lie between 0 and 1"
            raise UserError(problem, key="data.task.threshold", value=threshold, hint="0.5 is usual")
        self.threshold = threshold

    @property
    def regression(self) -> bool:
        return False

    def head_config(self) -> dict[str, Any]:
        return class_head(self.labels or ()) | {"problem_type": SEVERAL}

    def opens(self, config: Any) -> bool:
        return TextTask.opens(self, config) and getattr(config, "problem_type", None) == SEVERAL

    def suits(self, columns: Sequence[ColumnLook], label: str | None) -> bool:
        lists = [one for one in columns if one.listed]
        if label is not None:
            return any(one.name == label for one in lists)
        return bool(self.recognize(lists, "label")) or any(one.name.lower() in USUAL_LABELS for one in lists)

    def collate(self, features: list[dict[str, Any]], tokenizer: Any) -> Batch:
        inputs, tokens = model_inputs(features, tokenizer, self.side)
        labels = torch.from_numpy(np.stack([f["label"] for f in features])).float() if "label" in features[0] else None
        mask = torch.ones(len(features), dtype=torch.bool)  # a sample is one prediction, however many classes there are
        return Batch(inputs=inputs, labels=labels, mask=mask, tokens=tokens, ids=[sample["id"] for sample in features])

    def metrics(self) -> dict[str, Metric]:
        count = len(self.labels or ())
        return {
            "f1_micro": Ratio(),  # whose standard error is over the samples
            "f1_macro": MultilabelF1Score(count, average="macro", validate_args=False),
            "subset_accuracy": Ratio(),
        }

    def update(self, metrics: Mapping[str, Metric], logits: Tensor, batch: Batch) -> None:
        if batch.labels is None:
            return
        labelled = ~batch.labels.isnan().any(-1)
        predicted, labels = self.predict(logits)[labelled], batch.labels[labelled] > 0.5
        if len(labels):
            both, said, true = (of.sum(-1) for of in (predicted & labels, predicted, labels))
            metrics["f1_micro"].update(2 * both, said + true)
            metrics["f1_macro"].update(predicted.int(), labels.int())
            metrics["subset_accuracy"].update((predicted == labels).all(-1), torch.ones_like(labels[:, 0]))

    def predict(self, logits: Tensor) -> Tensor:
        """Whether each class is predicted, boolean ``[B, C]``."""
        return logits.float() > math.log(self.threshold / (1 - self.threshold))

    def guess(self, counts: Counts, tokens: Tensor | None) -> Guess | None:
        """The most frequent classes for every input, as many as give the best micro-averaged F1."""
        total, rows = int(counts.labels.sum()), counts.total
        if not total:
            return None
        often, order = counts.labels.double().sort(descending=True)
        sizes = torch.arange(1, len(often) + 1)
        micro = 2 * often.cumsum(0) / (sizes * rows + total)  # 2 TP / (predicted + true)
        size = int(micro.argmax()) + 1
        macro = (2 * often[:size] / (rows + often[:size])).sum() / len(often)
        says = " and ".join([self.always(int(order[0])), *(self.class_name(int(c)) for c in order[1:size])])
        return Guess({"f1_micro": float(micro.max()), "f1_macro": float(macro)}, says)

    def answers(
        self, logits: Tensor, batch: Batch, rows: Sequence[Mapping[str, Any]], tokenizer: Any, top: int | None
    ) -> list[Answer]:
        return [self._answer(row, top) for row in logits]

    def _answer(self, logits: Tensor, top: int | None) -> Answer:
        names, probabilities = self.labels or [], logits.sigmoid()
        order = probabilities.argsort(descending=True, stable=True).tolist()
        predicted = [i for i in order if self.predict(logits)[i]]
        scores = {names[i]: rounded(probabilities[i]) for i in (predicted if top is None else order[:top])}
        return {"labels": [names[i] for i in predicted], "scores": scores}

    def nothing(self, row: Mapping[str, Any]) -> Answer:
        return {"labels": [], "scores": {}}

    def fields(self, row: Mapping[str, Any], answer: Answer) -> list[list[str]]:
        scores = answer["scores"]
        return [[",".join(scores) or NONE, ",".join(map(digits, scores.values())) or NONE, *row.values()]]

    def script(self) -> Script:
        least = math.log(self.threshold / (1 - self.threshold))
        said = f"print([labels.get(str(i), i) for i, x in enumerate(logits[0]) if x > {least:.6g}], text)"
        return Script((said,), labels=True)
