"""Causal language modelling: predict each token of a document from those before it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torchmetrics import Metric

from distill.core.answer import Answer, rounded
from distill.core.padding import pad, real_positions
from distill.core.signals import IGNORE, Batch, Request, Signals
from distill.core.tally import Counts
from distill.core.task import UNIGRAM, Guess, WritingTask
from distill.core.token_scores import TokenScores
from distill.core.utils.errors import UserError
from distill.tasks.alignment import OtherTokenizer
from distill.tasks.context import for_teacher, teach
from distill.tasks.metrics import BitsPerByte, Perplexity, Ratio, negative_log_likelihood, unigram
from distill.tasks.next_token import Encode

__all__ = ["CausalLM"]


class CausalLM(WritingTask):
    """Next-token prediction.

    A document of tokens t1 ... tn is read as ``BOS t1 ... tn`` and its labels are ``t1 ... tn EOS``: labels
    are aligned with the logits, every token of the text is predicted from its own document alone, and so is the
    document's end. Where a tokenizer has no BOS the EOS stands for it, and a packed block is the usual stream
    of documents joined by EOS. Empty documents are left out.

    Of a prompt and its completion the completion counts, of a chat the assistant's turns
    (:class:`~distill.tasks.next_token.Encode`).

    Metrics: ``perplexity`` per token, ``bits_per_byte`` (of everything predicted, the ends of documents
    included, over the bytes of the text that is predicted) and ``token_accuracy``.

    Args:
        labels: None; every task takes them.
        completion_only_loss: Whether prompts and other turns than the assistant's do not count.
        add_special_tokens: Whether each text is put between BOS and EOS; ``None``: but for one that begins, or ends,
            with a special token of its own.
        chat_template: Whether prompts and completions are put through the tokenizer's chat template; ``None``: if it
            has one. A chat always is.
        teacher_system: What the teacher is told before a prompt or chat, and the student is not (:meth:`teach`).
        teacher_tokenizer: The teacher's, where it reads texts in other tokens than the student.
    """

    name: ClassVar[str] = "causal-lm"
    columns: ClassVar[dict[str, tuple[str, ...]]] = {
        "messages": ("messages", "conversations", "conversation"),
        "prompt": ("prompt",),
        "completion": ("completion",),
        "tools": ("tools",),
        "document": (),
        "text": ("text", "content", "document", "sentence", "code"),
    }
    optional: ClassVar[frozenset[str]] = frozenset({"tools", "document"})
    forms: ClassVar[tuple[frozenset[str], ...]] = (
        frozenset({"messages"}),
        frozenset({"prompt", "completion"}),
        frozenset({"text"}),
    )
    turns: ClassVar[frozenset[str]] = frozenset({"messages", "prompt", "completion"})
    predicted: ClassVar[str | None] = "labels"
    of_text: ClassVar[frozenset[str]] = frozenset({"bits_per_byte"})
    packs: ClassVar[bool] = True
    reads_on: ClassVar[bool] = True
    pads_with_eos: ClassVar[bool] = True
    pipeline: ClassVar[str | None] = "text-generation"
    adapter: ClassVar[str | None] = "CAUSAL_LM"
    monitor = "bits_per_byte"
    mode = "min"

    def __init__(
        self,
        labels: Any = None,
        completion_only_loss: bool = True,
        add_special_tokens: bool | None = None,
        chat_template: bool | None = None,
        teacher_system: str | None = None,
        teacher_tokenizer: OtherTokenizer | None = None,
    ) -> None:
        super().__init__(labels)
        self.completion_only_loss, self.add_special_tokens = completion_only_loss, add_special_tokens
        self.chat_template, self.teacher_system = chat_template, teacher_system
        self.teacher_tokenizer = teacher_tokenizer

    @property
    def auto_model(self) -> Any:
        from transformers import AutoModelForCausalLM

        return AutoModelForCausalLM

    def encode(self, tokenizer: Any, max_length: int | None) -> Callable[[dict[str, list[Any]]], dict[str, list[Any]]]:
        other = self.teacher_tokenizer
        teacher = None if other is None else self._reader(other.tokenizer, None, "data.teacher_tokenizer")
        return replace(self._reader(tokenizer, max_length, "data.tokenizer"), teacher=teacher)

    def _reader(self, tokenizer: Any, max_length: int | None, key: str) -> Encode:
        end = tokenizer.eos_token_id
        if end is None:
            raise UserError(
                "a language model's tokenizer needs an end-of-text token",
                key=key,
                value=tokenizer.name_or_path,
                hint="set its eos_token, or choose the tokenizer of a causal language model",
            )
        start = end if tokenizer.bos_token_id is None else tokenizer.bos_token_id
        return Encode(
            tokenizer,
            start,
            end,
            max_length,
            completion_only_loss=self.completion_only_loss,
            add_special_tokens=self.add_special_tokens,
            template=bool(self.chat_template),
            teacher_system=self.teacher_system,
        )

    def collate(self, features: list[dict[str, Any]], tokenizer: Any) -> Batch:
        inputs = {"input_ids": pad(features, "input_ids", tokenizer.pad_token_id)}
        labels = pad(features, "labels", IGNORE)
        real = torch.from_numpy(real_positions(features))
        tokens = None if bool(real.all()) else real
        if "position_ids" in features[0]:
            # Padding comes last, in no document's sight: every padded position starts a document of its own.
            inputs["position_ids"] = pad(features, "position_ids", 0)
        elif tokens is not None:
            inputs["attention_mask"] = tokens.long()
        return Batch(
            inputs=inputs,
            labels=labels,
            mask=tokens if bool((labels[real] != IGNORE).all()) else labels != IGNORE,
            tokens=tokens,
            ids=[sample["id"] for sample in features],
            extras={"bytes": pad(features, "bytes", 0)} | for_teacher(features, tokenizer.pad_token_id),
        )

    def teach(self, model: nn.Module, batch: Batch, request: Request) -> Signals:
        """A teacher's pass: over what it reads itself where it is told more than the student (Snell, Klein, Zhong,
        2022, "Learning by distilling context") or has another tokenizer, with its logits at the student's positions."""
        return teach(self, model, batch, request)

    def metrics(self) -> dict[str, Metric]:
        return {"perplexity": Perplexity(), "bits_per_byte": BitsPerByte(), "token_accuracy": Ratio()}

    def judge(self, metrics: Mapping[str, Metric], scores: TokenScores, batch: Batch) -> None:
        assert batch.labels is not None
        valid = batch.labels != IGNORE
        metrics["perplexity"].update(scores.nats, valid)
        metrics["bits_per_byte"].update(scores.nats, batch.extras["bytes"])
        metrics["token_accuracy"].update((scores.predicted == batch.labels) & valid, valid)

    def guess(self, counts: Counts, tokens: Tensor | None) -> Guess | None:
        if tokens is None or not counts.total or not counts.sums["bytes"]:  # answers of nothing but an end, say
            return None
        scores, nats = unigram(counts, tokens)
        return Guess(scores | {"bits_per_byte": nats / (math.log(2) * counts.sums["bytes"])}, UNIGRAM)

    def prompts(self, tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
        return self._reader(tokenizer, None, "data.tokenizer").prompts(texts)

    def answers(
        self, logits: Tensor, batch: Batch, rows: Sequence[Mapping[str, Any]], tokenizer: Any, top: int | None
    ) -> list[Answer]:
        """The metric of validation, of each text by itself: -sum log2 p over its bytes."""
        assert batch.labels is not None
        nats = negative_log_likelihood(logits, batch.labels).masked_fill(batch.labels == IGNORE, 0).sum(-1)
        bits = nats / math.log(2) / batch.extras["bytes"].sum(-1)
        return [{"bits_per_byte": rounded(value)} for value in bits]

    def nothing(self, row: Mapping[str, Any]) -> Answer:
        return {"completion": "", "bits_per_byte": None}

    def pipeline_arguments(self, max_length: int) -> dict[str, Any]:
        return {"max_new_tokens": 20}
