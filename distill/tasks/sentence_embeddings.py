"""A vector for a text, near those of texts that mean the like."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity
from torchmetrics import Metric
from transformers import PreTrainedModel

from distill.core.answer import Answer, digits, rounded
from distill.core.column_look import ColumnLook
from distill.core.padding import Side
from distill.core.pairs import REFERENCE, ROLE, ROW, partners
from distill.core.pooling import Pooling, pooling_of, set_pooling
from distill.core.signals import Batch, OutputKind
from distill.core.tally import Counts
from distill.core.task import Guess, LabelForm, TextTask
from distill.core.utils.errors import UserError
from distill.tasks.metrics import Ratio, Spearman
from distill.tasks.text_classification import PAIRS, model_inputs
from distill.tasks.vector_scores import neighbours

__all__ = ["SentenceEmbeddings"]

_TEXTS = ("text", "text_pair", "negative")
"""The roles of a row's texts; a text's number among them is what :data:`ROLE` says."""

_RETRIEVAL = (("anchor", "positive"), ("query", "positive"), ("query", "passage"), ("query", "document"))
_HEADS = ("Classification", "QuestionAnswering")

_log = logging.getLogger(__name__)
_NO_POOLING = "nothing beside %s says how its tokens are pooled (modules.json): the mean over them is taken"


class SentenceEmbeddings(TextTask):
    """Vectors of texts: alone, in pairs that belong together, or with a third that does not.

    The model is an encoder without a head, whose last hidden states are pooled as the files of sentence-transformers
    beside it say (:mod:`distill.core.pooling`); without any the student as its teacher, the teacher by the mean. A
    batch holds each text as a row of its own, those of one sample next to each other: B samples of pairs are 2 B rows
    ``[2 B, T]`` and 2 B predictions, so that a loss on vectors alone is exact however a batch is divided.
    ``extras`` say which row of the data a text is of, and which of its texts (:mod:`distill.core.pairs`).

    Metrics: ``similarity``, the mean over the texts of Spearman's correlation, over the other texts of its batch, of
    the student's cosines to them with the teacher's (:func:`~distill.tasks.vector_scores.neighbours`): it knows no
    width and needs no label, and a teacher's own is 1. ``cosine``, the mean cosine of the student's vectors to the
    teacher's, where both have one width. ``spearman`` of the cosine of a pair with its score, where rows have one.

    Attributes:
        monitor: ``similarity``, or without a teacher ``spearman``.
    """

    name: ClassVar[str] = "sentence-embeddings"
    outputs: ClassVar[OutputKind] = "vectors"
    columns: ClassVar[dict[str, tuple[str, ...]]] = {
        "text": ("sentence", "text", "anchor", "query", "content", "review"),
        "text_pair": (),
        "negative": ("negative",),
        "label": ("score", "similarity_score", "similarity", "label"),
    }
    optional: ClassVar[frozenset[str]] = frozenset({"text_pair", "negative", "label"})
    takes: ClassVar[frozenset[LabelForm]] = frozenset({"number"})
    needs_labels: ClassVar[bool] = False
    sides: ClassVar[tuple[Side, ...]] = ("right", "left")
    pipeline: ClassVar[str | None] = "feature-extraction"
    monitor = "similarity"
    mode = "max"

    def __init__(self, labels: Sequence[str] | None = None) -> None:
        super().__init__(None)

    @property
    def auto_model(self) -> Any:
        from distill.core.internals.sentence_encoder import AutoSentenceEncoder

        return AutoSentenceEncoder

    def meet_models(self, student: nn.Module, teachers: Sequence[nn.Module] | None) -> None:
        for number, teacher in enumerate(teachers or ()):
            _refuse_heads(teacher, number)
        known = next((pooling for one in teachers or () if (pooling := pooling_of(one))), None)
        for model, default in ((student, known), *((one, None) for one in teachers or ())):
            if isinstance(model, PreTrainedModel):
                if not (pooling_of(model) or default):
                    _log.warning(_NO_POOLING, getattr(model.config, "name_or_path", "") or type(model).__name__)
                set_pooling(model, pooling_of(model) or default or Pooling())
        self.monitor = "spearman" if teachers is None else "similarity"

    def find_columns(self, names: Sequence[str]) -> dict[str, str]:
        found = super().find_columns(names)
        for first, second in (*_RETRIEVAL, *PAIRS):
            if first in names and second in names:
                if first == "premise":  # whose label is a class
                    found.pop("label", None)
                return found | {"text": first, "text_pair": second}
        # Without a second text there is nothing that a score is of, and a negative is none of anything.
        return {role: column for role, column in found.items() if role == "text"}

    def suits(self, columns: Sequence[ColumnLook], label: str | None) -> bool:
        names = {one.name.lower() for one in columns}
        return label is None and "positive" in names and bool(names & {"anchor", "query"})

    def encode(self, tokenizer: Any, max_length: int | None) -> Callable[[dict[str, list[Any]]], dict[str, list[Any]]]:
        return _Encode(tokenizer, max_length)

    def collate(self, features: list[dict[str, Any]], tokenizer: Any) -> Batch:
        roles = [role for role in _TEXTS if _named("input_ids", role) in features[0]]
        texts = [_text(sample, role) for sample in features for role in roles]
        inputs, tokens = model_inputs(texts, tokenizer, self.side)
        ids = [int(sample["id"]) for sample in features for _ in roles]
        numbers = list(range(len(roles))) * len(features)
        extras = {ROW: torch.tensor(ids), ROLE: torch.tensor(numbers)} if len(roles) > 1 else {}
        if "label" in features[0]:
            scores = np.array([float(sample["label"]) for sample in features], dtype=np.float32)
            extras["score"] = torch.from_numpy(scores).repeat_interleave(len(roles))
        known = [i * len(roles) + number for i, number in zip(ids, numbers, strict=True)]
        return Batch(inputs=inputs, tokens=tokens, ids=known, extras=extras)

    def for_evaluation(self, batch: Batch) -> Batch:
        rows = len(batch.inputs["input_ids"]) if "input_ids" in batch.inputs else batch.size
        return replace(batch, labels=torch.zeros(rows))  # each text counts, whatever is known of it

    def metrics(self) -> dict[str, Metric]:
        return {"similarity": Ratio(), "cosine": Ratio(), "spearman": Spearman()}

    def means(self) -> dict[str, str]:
        return {"similarity": "of a text's cosines to its batch with the teacher's", "spearman": "of pairs' cosines"}

    def update(self, metrics: Mapping[str, Metric], logits: Tensor, batch: Batch) -> None:
        # Each is told of every batch, if only of nothing in it: which of them there are, all ranks must find alike.
        nothing = logits.new_zeros(0)
        reference = batch.extras.get(REFERENCE)
        metrics["similarity"].update(*((nothing, nothing) if reference is None else neighbours(logits, reference)))
        alike = nothing
        if reference is not None and reference.shape == logits.shape:
            alike = cosine_similarity(logits.float(), reference.float(), dim=-1)
        metrics["cosine"].update(alike, torch.ones_like(alike))
        metrics["spearman"].update(*_scored_pairs(logits, batch))

    def predict(self, logits: Tensor) -> Tensor | None:
        return None

    def guess(self, counts: Counts, tokens: Tensor | None) -> Guess | None:
        return Guess({"similarity": 0.0, "spearman": 0.0}, "one vector for every text")

    def answers(
        self, logits: Tensor, batch: Batch, rows: Sequence[Mapping[str, Any]], tokenizer: Any, top: int | None
    ) -> list[Answer]:
        """The vector of each text, under ``embedding`` that of the first; of pairs their cosine too."""
        vectors = logits.float().reshape(len(rows), -1, logits.shape[-1])
        return [self._answer(list(row), found) for row, found in zip(rows, vectors, strict=True)]

    def _answer(self, roles: Sequence[str], vectors: Tensor) -> Answer:
        answer: Answer = {
            "embedding" if role == "text" else f"{role}_embedding": [rounded(value) for value in vector]
            for role, vector in zip(roles, vectors, strict=True)
        }
        if "text_pair" in roles:
            answer["cosine"] = rounded(cosine_similarity(vectors[0], vectors[1], dim=-1))
        return answer

    def nothing(self, row: Mapping[str, Any]) -> Answer:
        return {"embedding": None}

    def fields(self, row: Mapping[str, Any], answer: Answer) -> list[list[str]]:
        """The cosine of a pair, or the vector of a text, with blanks between its numbers."""
        pair = "cosine" in answer or (answer["embedding"] is None and "text_pair" in row)
        numbers = answer["embedding"] or [None]
        return [[digits(answer.get("cosine")) if pair else " ".join(map(digits, numbers)), *row.values()]]


def _scored_pairs(vectors: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
    """The cosines of the pairs that have a score, and the scores, ``[P]``."""
    if "score" not in batch.extras or ROLE not in batch.extras:
        return vectors.new_zeros(0), vectors.new_zeros(0)
    first, second = partners(batch, 0, 1)
    scores = batch.extras["score"][first]
    known = ~scores.isnan()
    cosines = cosine_similarity(vectors[first[known]].float(), vectors[second[known]].float(), dim=-1)
    return cosines, scores[known]


@dataclass(frozen=True)
class _Encode:
    """Texts to features by role; rows of which a text is empty are left out, as nothing would be in its vector."""

    tokenizer: Any
    max_length: int | None

    def __call__(self, columns: dict[str, list[Any]]) -> dict[str, list[Any]]:
        roles = [role for role in _TEXTS if role in columns]
        found: dict[str, list[Any]] = {}
        for role in roles:
            made = self.tokenizer(
                columns[role],
                truncation=self.max_length is not None,
                max_length=self.max_length,
                return_attention_mask=False,
            )
            found |= {_named(name, role): list(values) for name, values in made.items()}
        for row in range(len(columns["text"])):
            if not all(str(columns[role][row]).strip() for role in roles):
                found["input_ids"][row] = []
        return found | ({"label": columns["label"]} if "label" in columns else {})


def _named(name: str, role: str) -> str:
    """A feature of the text of that role."""
    return name if role == "text" else f"{role} {name}"


def _text(sample: Mapping[str, Any], role: str) -> dict[str, Any]:
    """The features of one of a sample's texts."""
    names = [name for name in ("input_ids", "token_type_ids") if _named(name, role) in sample]
    return {name: sample[_named(name, role)] for name in names}


def _refuse_heads(teacher: nn.Module, number: int) -> None:
    """Refuse a teacher whose file holds a classifier: what lies below it was made for that, and not to be compared."""
    config: Any = getattr(teacher, "config", None)
    for name in getattr(config, "architectures", None) or ():
        if any(head in name for head in _HEADS) and pooling_of(teacher) is None:
            problem = f"is a {name}, whose vectors were trained for its head and not to be compared"
            hint = "name a model of sentence embeddings (one with a modules.json), or distil it as what it is"
            key = "model.teacher" if not number else f"model.teacher.{number}"
            raise UserError(problem, key=key, value=name, hint=hint)
