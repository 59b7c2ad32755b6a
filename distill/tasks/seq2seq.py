"""Text to text: a decoder writes, token by token, what an encoder's reading of another text calls for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torchmetrics import Metric

from distill.core.answer import Answer
from distill.core.column_look import ColumnLook, label_candidates
from distill.core.padding import pad, side_by_side
from distill.core.signals import DECODER_INPUT, IGNORE, Batch
from distill.core.stacks import start_of
from distill.core.tally import Counts
from distill.core.task import UNIGRAM, Guess, TextTask, WritingTask
from distill.core.token_scores import TokenScores
from distill.core.utils.errors import UserError
from distill.tasks.metrics import Perplexity, Ratio, unigram
from distill.tasks.text_classification import model_inputs

__all__ = ["TARGET_LENGTH", "Seq2Seq"]

TARGET_LENGTH = 128
"""Most tokens of a target, its end among them, if nothing else is given."""

_PAIRS = (
    ("document", "summary"),
    ("article", "highlights"),
    ("article", "summary"),
    ("dialogue", "summary"),
    ("text", "summary"),
    ("source", "target"),
    ("src", "tgt"),
    ("input", "output"),
    ("text", "target"),
    ("prompt", "completion"),
)
"""Columns that belong together: of summaries, of translations, and of what a teacher has written."""


class Seq2Seq(WritingTask):
    """Summarisation, translation, any text to text, with an encoder-decoder (T5, BART, Marian).

    The encoder reads the source ``[B, S]``, after ``prefix`` if there is one. The decoder reads the target shifted by
    one, ``[B, T]``, behind the token that its model's configuration starts it with (``decoder_start_token_id``); its
    labels are the target's tokens with their end, so that each is predicted from those before it. S and T differ: where
    they would not, the targets have one more position of padding, and a tensor's size says of which text it is.

    Metrics, over the target's tokens with the true ones before each: ``perplexity`` and ``token_accuracy``.

    Args:
        labels: None; every task takes them.
        prefix: What stands before each source (``"summarize: "``).
        max_target_length: Longer targets are cut.
        start: The token that starts the decoder; the models' own, if they are met (:meth:`meet_models`).
    """

    name: ClassVar[str] = "seq2seq"
    columns: ClassVar[dict[str, tuple[str, ...]]] = {
        "text": ("source", "document", "article", "dialogue", "input", "prompt", "text"),
        "target": ("target", "summary", "highlights", "output", "completion", "translation"),
    }
    sought: ClassVar[frozenset[str]] = frozenset({"target"})
    predicted: ClassVar[str | None] = "labels"
    reads_apart: ClassVar[bool] = True
    adapter: ClassVar[str | None] = "SEQ_2_SEQ_LM"
    monitor = "perplexity"
    mode = "min"

    def __init__(
        self,
        labels: Any = None,
        prefix: str = "",
        max_target_length: int = TARGET_LENGTH,
        start: int | None = None,
    ) -> None:
        super().__init__(None)
        self.prefix, self.max_target_length, self.start = prefix, max_target_length, start

    @property
    def auto_model(self) -> Any:
        from transformers import AutoModelForSeq2SeqLM

        return AutoModelForSeq2SeqLM

    def write_to(self, prefix: str | None, longest: int | None) -> None:
        self.prefix = self.prefix if prefix is None else prefix
        self.max_target_length = self.max_target_length if longest is None else longest

    def follow(self, other: TextTask) -> None:
        if isinstance(other, Seq2Seq):
            self.write_to(other.prefix, other.max_target_length)

    def lead(self, other: TextTask) -> None:
        if isinstance(other, Seq2Seq) and self.start is not None:
            other.start = self.start

    def meet_models(self, student: nn.Module, teachers: Sequence[nn.Module] | None) -> None:
        self.start = start_of(student, "model.student")
        for number, teacher in enumerate(teachers or ()):
            key = "model.teacher" if len(teachers or ()) == 1 else f"model.teacher.{number}"
            if (theirs := start_of(teacher, key)) != self.start:
                problem = f"starts its decoder with token {theirs}, and the student with {self.start}"
                hint = "give both one decoder_start_token_id, or take a student of the teacher's layers"
                raise UserError(problem, key=key, value=theirs, hint=hint)

    def find_columns(self, names: Sequence[str]) -> dict[str, str]:
        for source, target in _PAIRS:
            if source in names and target in names:
                return {"text": source, "target": target}
        return super().find_columns(names)

    def suits(self, columns: Sequence[ColumnLook], label: str | None) -> bool:
        few = label_candidates(columns, listed=False, taken=())  # a target that is one of several classes
        texts = {one.name.lower() for one in columns if one.kind == "text" and not one.listed and one.name not in few}
        return label is None and any({source, target} <= texts for source, target in _PAIRS[:-1])

    def tried(self) -> dict[str, list[Any]]:
        texts = super().tried()["text"]
        return {"text": texts, "target": texts[::-1]}

    def encode(self, tokenizer: Any, max_length: int | None) -> Callable[[dict[str, list[Any]]], dict[str, list[Any]]]:
        assert max_length is not None
        return _Encode(tokenizer, max_length, self.max_target_length, self.prefix)

    def collate(self, features: list[dict[str, Any]], tokenizer: Any) -> Batch:
        return self._batch(features, tokenizer, pad(features, "labels", IGNORE))

    def ask(self, features: list[dict[str, Any]], tokenizer: Any) -> Batch:
        return self._batch(features, tokenizer, torch.full((len(features), 1), IGNORE))

    def _batch(self, features: list[dict[str, Any]], tokenizer: Any, labels: Tensor) -> Batch:
        if self.start is None:
            problem = "nothing says which token starts the decoder: its models do, and none has been met"
            hint = "pair the data with a model (Distillation), or give the task one: Seq2Seq(start=0)"
            raise UserError(problem, key="model.task", value=self.name, hint=hint)
        inputs, tokens = model_inputs([{"input_ids": sample["input_ids"]} for sample in features], tokenizer)
        labels = side_by_side(tokens, labels, IGNORE)
        counts = labels != IGNORE
        shifted = labels.masked_fill(~counts, tokenizer.pad_token_id).roll(1, 1)
        shifted[:, 0] = self.start
        return Batch(
            inputs={**inputs, DECODER_INPUT: shifted},
            labels=labels,
            mask=counts,
            tokens=tokens,
            decoder_tokens=counts,
            ids=[sample["id"] for sample in features],
        )

    def metrics(self) -> dict[str, Metric]:
        return {"perplexity": Perplexity(), "token_accuracy": Ratio()}

    def means(self) -> dict[str, str]:
        return {"perplexity": "of a target's token, the true ones before it given"}

    def judge(self, metrics: Mapping[str, Metric], scores: TokenScores, batch: Batch) -> None:
        assert batch.labels is not None
        valid = batch.labels != IGNORE
        metrics["perplexity"].update(scores.nats, valid)
        metrics["token_accuracy"].update((scores.predicted == batch.labels) & valid, valid)

    def guess(self, counts: Counts, tokens: Tensor | None) -> Guess | None:
        return None if tokens is None or not counts.total else Guess(unigram(counts, tokens)[0], UNIGRAM)

    @property
    def longest_answer(self) -> int:
        return self.max_target_length

    def prompts(self, tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
        found: list[list[int]] = tokenizer([self.prefix + text for text in texts], verbose=False)["input_ids"]
        return found

    def answers(
        self, logits: Tensor, batch: Batch, rows: Sequence[Mapping[str, Any]], tokenizer: Any, top: int | None
    ) -> list[Answer]:
        """Nothing beside what is written: how likely a target is, only a row that has one could say."""
        return [{} for _ in rows]

    def pipeline_arguments(self, max_length: int) -> dict[str, Any]:
        return {"max_new_tokens": self.max_target_length}


@dataclass(frozen=True)
class _Encode:
    """Rows by role to ``input_ids`` of the source and ``labels`` of the target, each cut as the tokenizer cuts it.

    ``beyond`` and ``target_beyond`` say of each row how many tokens of either were cut off.
    """

    tokenizer: Any
    max_length: int
    max_target_length: int
    prefix: str

    def __call__(self, columns: dict[str, list[Any]]) -> dict[str, list[Any]]:
        ids, beyond = self._cut(self.max_length, text=[self.prefix + text for text in columns["text"]])
        if "target" not in columns:
            return {"input_ids": ids, "beyond": beyond}
        labels, more = self._cut(self.max_target_length, text_target=list(columns["target"]))
        return {"input_ids": ids, "labels": labels, "beyond": beyond, "target_beyond": more}

    def _cut(self, limit: int, **texts: list[str]) -> tuple[list[list[int]], list[int]]:
        whole = self.tokenizer(**texts, return_attention_mask=False, verbose=False)["input_ids"]
        beyond = [max(0, len(ids) - limit) for ids in whole]
        if not any(beyond):
            return whole, beyond
        kept = self.tokenizer(**texts, truncation=True, max_length=limit, return_attention_mask=False)["input_ids"]
        return kept, beyond
