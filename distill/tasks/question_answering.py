"""The words of a context that answer a question, or that none does."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torchmetrics import Metric

from distill.core.answer import NONE, Answer, Script, digits, rounded
from distill.core.candidates import CANDIDATES, among_candidates
from distill.core.column_look import ColumnLook
from distill.core.padding import pad
from distill.core.signals import Batch, OutputKind, Request, Signals
from distill.core.tally import Counts
from distill.core.task import PART, Guess, LabelForm, TextTask
from distill.tasks.answer_scores import PerQuestion, answer_scores
from distill.tasks.answer_windows import NO_ANSWER, Windows, unpacked, window_overlap
from distill.tasks.answers import LONGEST, best_spans
from distill.tasks.text_classification import model_inputs

__all__ = ["QuestionAnswering"]


class QuestionAnswering(TextTask):
    """Extractive question answering: the span of a context that answers a question, SQuAD 1.1 and 2.0.

    A context that is longer than ``data.max_length`` leaves room for is read in windows, each a sample of its own, that
    share ``data.doc_stride`` tokens. A window has two predictions, of the answer's first and of its last token: logits
    ``[B, 2, T]`` over its positions. Positions that are no token of the context, but the first one, which stands for no
    answer, are out of the question for both models alike (:mod:`distill.core.candidates`). The label of a window that
    does not hold all of the answer is no answer; a question of several answers is trained on the first.

    A question's answer is that of the window in which it is the most likely: p(start) p(end), of at most 30 tokens. It
    has none where p of no answer is greater in every window. Metrics, each question once: ``exact_match`` and ``f1`` in
    [0, 1], as SQuAD's script has them, of the best reference.

    Args:
        labels: Not used.
        doc_stride: Tokens that a window shares with the one before; a third of ``max_length``, and 128 at most, if not
            given.
        unanswerable: Whether a question may have no answer. Data in which each has one sets it to false.
    """

    name: ClassVar[str] = "question-answering"
    outputs: ClassVar[OutputKind] = "positions"
    columns: ClassVar[dict[str, tuple[str, ...]]] = {
        "text": ("question", "query"),
        "text_pair": ("context", "passage", "document", "paragraph"),
        "label": ("answers", "answer"),
        "answer_start": ("answer_start", "answer_starts"),
    }
    optional: ClassVar[frozenset[str]] = frozenset({"label", "answer_start"})
    takes: ClassVar[frozenset[LabelForm]] = frozenset({"spans"})
    several: ClassVar[bool] = True
    shown: ClassVar[Mapping[str, str]] = {"text": "question", "text_pair": "context"}
    adapter: ClassVar[str | None] = "QUESTION_ANS"
    monitor = "f1"
    mode = "max"

    def __init__(
        self, labels: Sequence[str] | None = None, doc_stride: int | None = None, unanswerable: bool = True
    ) -> None:
        super().__init__(None)
        self.doc_stride, self.unanswerable = doc_stride, unanswerable

    @property
    def auto_model(self) -> Any:
        from transformers import AutoModelForQuestionAnswering

        return AutoModelForQuestionAnswering

    def head_config(self) -> dict[str, Any]:
        return {"num_labels": 2}

    def suits(self, columns: Sequence[ColumnLook], label: str | None) -> bool:
        return {"question", "context", "answers"} <= {one.name.lower() for one in columns} and label is None

    def settle(self, doc_stride: int | None, unanswerable: bool) -> None:
        self.doc_stride, self.unanswerable = doc_stride, unanswerable

    def follow(self, other: TextTask) -> None:
        if isinstance(other, QuestionAnswering):
            self.settle(other.doc_stride, other.unanswerable)

    def encode(self, tokenizer: Any, max_length: int | None) -> Callable[[dict[str, list[Any]]], dict[str, list[Any]]]:
        assert max_length is not None
        return Windows(tokenizer, max_length, window_overlap(max_length, self.doc_stride))

    def collate(self, features: list[dict[str, Any]], tokenizer: Any) -> Batch:
        inputs, tokens = model_inputs(features, tokenizer)
        numbers = {name: torch.tensor([int(f[name]) for f in features]) for name in (PART, "asked", "unanswerable")}
        # Windows of a question follow each other, so the first one's number is the question's.
        question = torch.tensor([int(f["id"]) for f in features]) - numbers[PART]
        extras = {
            CANDIDATES: pad(features, CANDIDATES, 0).bool(),
            **{name: pad(features, name, 0) for name in ("starts", "ends", "said")},
            **numbers,
            "question": question,
        }
        labels = torch.from_numpy(np.stack([f["labels"] for f in features])).long()
        mask = torch.ones_like(labels, dtype=torch.bool)  # also of a row without a label, where the teacher teaches
        return Batch(inputs, labels, mask, tokens, [f["id"] for f in features], extras)

    def forward(self, model: nn.Module, batch: Batch, request: Request) -> Signals:
        signals = super().forward(model, batch, request)
        return signals if signals.logits is None else replace(signals, logits=self.decisive(signals.logits, batch))

    def decisive(self, logits: Tensor, batch: Batch) -> Tensor:
        return among_candidates(logits, batch)

    def metrics(self) -> dict[str, Metric]:
        return {"exact_match": PerQuestion(), "f1": PerQuestion()}

    def means(self) -> dict[str, str]:
        return {"exact_match": "of questions, as SQuAD's script has it", "f1": "of an answer's words, likewise"}

    def update(self, metrics: Mapping[str, Metric], logits: Tensor, batch: Batch) -> None:
        found = self._spans(logits, batch)
        undefined = self.decisive(logits, batch).isnan().any(-1).any(-1).tolist()
        texts = unpacked((batch.on_host or batch).extras["said"])
        rows, scores, unanswered = [], [], []
        for row, (said, start, end) in enumerate(zip(texts, found.start, found.end, strict=True)):
            if said["answers"] is None:  # not judged
                continue
            answer = said["text"][start - said["at"] : end - said["at"]]
            rows.append(row)
            scores.append((0.0, 0.0) if undefined[row] else answer_scores(answer, said["answers"]))
            unanswered.append(0.0 if undefined[row] else float(not said["answers"]))
        at = torch.tensor(rows, dtype=torch.long, device=logits.device)
        question, window = batch.extras["question"][at], batch.extras[PART][at]
        none = logits.new_tensor(unanswered)
        for metric, values in zip(metrics.values(), zip(*scores, strict=True) if scores else [(), ()], strict=True):
            value = logits.new_tensor(values, dtype=torch.float32)
            metric.update(question, window, found.certainty[at], value, found.none[at], none)

    def guess(self, counts: Counts, tokens: Tensor | None) -> Guess | None:
        asked = counts.sums.get("asked", 0.0)
        share = counts.sums.get("unanswerable", 0.0) / asked if asked else 0.0
        return Guess({"exact_match": share, "f1": share}, "that there is no answer") if asked else None

    def class_name(self, label: int) -> str:
        return "'no answer'" if label == NO_ANSWER else f"position {label}"

    def answers(
        self, logits: Tensor, batch: Batch, rows: Sequence[Mapping[str, Any]], tokenizer: Any, top: int | None
    ) -> list[Answer]:
        """Of each window: the ``answer``, its probability ``score``, the characters at which it starts and ends, and
        how likely there is ``no_answer``."""
        found = self._spans(logits, batch)
        return [
            {
                "answer": row["text_pair"][start:end],
                "score": rounded(certainty.exp()),
                "start": start,
                "end": end,
                "no_answer": rounded(none.exp()),
            }
            for row, start, end, certainty, none in zip(
                rows, found.start, found.end, found.certainty, found.none, strict=True
            )
        ]

    def joined(self, parts: Sequence[Answer]) -> Answer:
        best = max(parts, key=lambda part: part["score"])
        none = min(part["no_answer"] for part in parts)
        if none > best["score"]:
            return {"answer": "", "score": none, "start": None, "end": None, "no_answer": none}
        return best | {"no_answer": none}

    def nothing(self, row: Mapping[str, Any]) -> Answer:
        return {"answer": "", "score": None, "start": None, "end": None, "no_answer": None}

    def fields(self, row: Mapping[str, Any], answer: Answer) -> list[list[str]]:
        """The answer, or a hyphen, its score, and the question; of contexts that would be long lines."""
        return [[answer["answer"] or NONE, digits(answer["score"]), row["text"]]]

    def script(self) -> Script:
        pairs = f"for i in context for j in context if i <= j < i + {LONGEST}"
        best = f"score, i, j = max((start[i] + end[j], i, j) {pairs})"
        none = "score > start[0] + end[0] and " if self.unanswerable else ""
        return Script(
            (
                "context = [i for i, part in enumerate(inputs.sequence_ids(0)) if part == 1]",
                "start, end = logits[0]",
                best,
                'ids = inputs["input_ids"][0][i : j + 1]',
                f'print({none}tokenizer.decode(ids) or "no answer", "|", text[0])',
            ),
            logits="torch.stack(model(**inputs).to_tuple()[:2], 1)",
        )

    def _spans(self, logits: Tensor, batch: Batch) -> _Found:
        start, end = self.decisive(logits.float(), batch).log_softmax(-1).unbind(1)
        inside = batch.extras[CANDIDATES].clone()
        inside[:, NO_ANSWER] = False
        certainty, first, last = best_spans(start, end, inside)
        none = start[:, NO_ANSWER] + end[:, NO_ANSWER]
        places = (
            batch.extras[name].gather(1, at[:, None])[:, 0].tolist() for name, at in (("starts", first), ("ends", last))
        )
        return _Found(certainty, none if self.unanswerable else torch.full_like(none, -torch.inf), *places)


@dataclass(frozen=True)
class _Found:
    """The most likely answer of each window: its log-probability, that of no answer, and its characters."""

    certainty: Tensor
    none: Tensor
    start: list[int]
    end: list[int]
