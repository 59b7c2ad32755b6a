"""Causal language modelling: predict each token of a document from those before it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchmetrics import Metric

from distill.core.padding import pad, real_positions
from distill.core.signals import IGNORE, Batch
from distill.core.tally import Counts
from distill.core.task import UNIGRAM, Guess, TextTask
from distill.core.utils.errors import UserError
from distill.tasks.metrics import BitsPerByte, Perplexity, Ratio, negative_log_likelihood, unigram

__all__ = ["CausalLM", "byte_lengths"]


class CausalLM(TextTask):
    """Next-token prediction.

    A document of tokens t1 ... tn is read as ``BOS t1 ... tn`` and its labels are ``t1 ... tn EOS``: labels
    are aligned with the logits, every token of the text is predicted from its own document alone, and so is the
    document's end. Where a tokenizer has no BOS the EOS stands for it, and a packed block is the usual stream
    of documents joined by EOS. Empty documents are left out.

    Metrics: ``perplexity`` per token, ``bits_per_byte`` (of everything predicted, the ends of documents
    included, over the bytes of the text) and ``token_accuracy``.
    """

    name: ClassVar[str] = "causal-lm"
    columns: ClassVar[dict[str, tuple[str, ...]]] = {"text": ("text", "content", "document", "sentence", "code")}
    predicted: ClassVar[str | None] = "labels"
    packs: ClassVar[bool] = True
    pads_with_eos: ClassVar[bool] = True
    monitor = "bits_per_byte"
    mode = "min"

    @property
    def auto_model(self) -> Any:
        from transformers import AutoModelForCausalLM

        return AutoModelForCausalLM

    def encode(self, tokenizer: Any, max_length: int | None) -> Callable[[dict[str, list[Any]]], dict[str, list[Any]]]:
        end = tokenizer.eos_token_id
        if end is None:
            raise UserError(
                "a language model's tokenizer needs an end-of-text token",
                key="data.tokenizer",
                value=tokenizer.name_or_path,
                hint="set its eos_token, or choose the tokenizer of a causal language model",
            )
        start = end if tokenizer.bos_token_id is None else tokenizer.bos_token_id
        return _Encode(tokenizer, start, end, max_length)

    def collate(self, features: list[dict[str, Any]], tokenizer: Any) -> Batch:
        inputs = {"input_ids": pad(features, "input_ids", tokenizer.pad_token_id)}
        labels = pad(features, "labels", IGNORE)
        real = real_positions(features)
        tokens = None if real.all() else torch.from_numpy(real)
        if "position_ids" in features[0]:
            # Padding comes last, in no document's sight: every padded position starts a document of its own.
            inputs["position_ids"] = pad(features, "position_ids", 0)
        elif tokens is not None:
            inputs["attention_mask"] = tokens.long()
        return Batch(
            inputs=inputs,
            labels=labels,
            mask=tokens,  # every real position has a label
            tokens=tokens,
            ids=[sample["id"] for sample in features],
            extras={"bytes": pad(features, "bytes", 0)},
        )

    def metrics(self) -> dict[str, Metric]:
        return {"perplexity": Perplexity(), "bits_per_byte": BitsPerByte(), "token_accuracy": Ratio()}

    def update(self, metrics: Mapping[str, Metric], logits: Tensor, batch: Batch) -> None:
        assert batch.labels is not None
        loss = negative_log_likelihood(logits, batch.labels)
        valid = batch.labels != IGNORE
        metrics["perplexity"].update(loss, valid)
        metrics["bits_per_byte"].update(loss, batch.extras["bytes"])
        metrics["token_accuracy"].update((logits.argmax(-1) == batch.labels) & valid, valid)

    def guess(self, counts: Counts, tokens: Tensor | None) -> Guess | None:
        if tokens is None or not counts.total:
            return None
        scores, nats = unigram(counts, tokens)
        return Guess(scores | {"bits_per_byte": nats / (math.log(2) * counts.sums["bytes"])}, UNIGRAM)


@dataclass(frozen=True)
class _Encode:
    """Texts to ``input_ids``, ``labels`` and ``bytes``, cut to ``max_length`` unless they are packed later."""

    tokenizer: Any
    start: int
    end: int
    max_length: int | None

    def __call__(self, columns: dict[str, list[Any]]) -> dict[str, list[Any]]:
        texts = [text for text in columns["text"] if text]
        features: dict[str, list[Any]] = {"input_ids": [], "labels": [], "bytes": []}
        if not texts:
            return features
        encoded = self.tokenizer(
            texts,
            add_special_tokens=False,
            return_attention_mask=False,
            return_token_type_ids=False,
            return_offsets_mapping=True,
            verbose=False,
        )
        for text, ids, offsets in zip(texts, encoded["input_ids"], encoded["offset_mapping"], strict=True):
            tokens = np.asarray(ids, np.int32)
            features["input_ids"].append(np.append(np.int32(self.start), tokens)[: self.max_length])
            features["labels"].append(np.append(tokens, np.int32(self.end))[: self.max_length])
            features["bytes"].append(byte_lengths(text, offsets)[: self.max_length])
        return features


def byte_lengths(text: str, offsets: list[tuple[int, int]]) -> NDArray[np.int32]:
    """The bytes of UTF-8 that each token adds to the text before it, and what is left for the end of text.

    Tokens may share a character (parts of one outside ASCII) or skip some (white space dropped by a
    normalizer): each byte goes to the first token that reaches it, so the sum is exactly the text's size.

    Args:
        text: The text.
        offsets: First and last (exclusive) character of each token, n of them.

    Returns:
        ``[n + 1]``.
    """
    ends = np.asarray(offsets, np.int64).reshape(-1, 2)[:, 1]
    points = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
    sizes = 1 + (points >= 0x80).astype(np.int64) + (points >= 0x800) + (points >= 0x10000)
    upto = np.append(0, np.cumsum(sizes))
    reached = np.maximum.accumulate(np.concatenate([[0], upto[ends], [upto[-1]]]))
    return np.diff(reached).astype(np.int32)
