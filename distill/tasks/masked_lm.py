"""Masked language modelling (Devlin et al., 2019, "BERT"): restore tokens that were hidden."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchmetrics import Metric

from distill.core.answer import MASK, Answer, Script, alternatives, rounded
from distill.core.draws import uniform
from distill.core.padding import pad, real_positions
from distill.core.signals import IGNORE, Batch
from distill.core.tally import Counts
from distill.core.task import UNIGRAM, Guess, TokenTask
from distill.core.token_scores import TokenScores
from distill.core.utils.errors import UserError
from distill.tasks.metrics import Perplexity, Ratio, unigram
from distill.tasks.text_classification import model_inputs

__all__ = ["MaskedLM", "mask_tokens"]

_NAMED = 5  # tokens for a mask, if nothing else is asked for


class MaskedLM(TokenTask):
    """Restore hidden tokens from both sides.

    Metrics, over the hidden tokens alone: ``perplexity`` and ``token_accuracy``. Validation hides the same
    tokens every time.

    Args:
        labels: None; every task takes them.
        probability: Share of the tokens that are hidden.
    """

    name: ClassVar[str] = "masked-lm"
    columns: ClassVar[dict[str, tuple[str, ...]]] = {"text": ("text", "sentence", "content", "document")}
    predicted: ClassVar[str | None] = "input_ids"
    stochastic: bool = True
    pipeline: ClassVar[str | None] = "fill-mask"
    example: ClassVar[str] = f"a {MASK} text"
    monitor = "perplexity"
    mode = "min"

    def __init__(self, labels: Any = None, probability: float = 0.15) -> None:
        super().__init__(labels)
        if not 0 < probability < 1:
            raise UserError(
                "must lie between 0 and 1", key="data.task.probability", value=probability, hint="write 0.15"
            )
        self.probability = probability

    @property
    def auto_model(self) -> Any:
        from transformers import AutoModelForMaskedLM

        return AutoModelForMaskedLM

    def encode(self, tokenizer: Any, max_length: int | None) -> Callable[[dict[str, list[Any]]], dict[str, list[Any]]]:
        if tokenizer.mask_token_id is None:
            raise UserError(
                "masked language modelling needs a tokenizer with a mask token",
                key="data.tokenizer",
                value=tokenizer.name_or_path,
                hint="choose the tokenizer of a masked language model",
            )
        return _Encode(tokenizer, max_length)

    def collate(self, features: list[dict[str, Any]], tokenizer: Any) -> Batch:
        ids = pad(features, "input_ids", tokenizer.pad_token_id).numpy()
        real = real_positions(features)
        inputs, labels = mask_tokens(
            ids,
            real & ~np.isin(ids, tokenizer.all_special_ids),
            seed=features[0]["seed"],
            epoch=features[0]["epoch"],
            samples=np.array([sample["id"] for sample in features]),
            probability=self.probability,
            mask_id=tokenizer.mask_token_id,
            vocabulary=len(tokenizer),
        )
        tokens, targets = torch.from_numpy(real), torch.from_numpy(labels)
        return Batch(
            inputs={"input_ids": torch.from_numpy(inputs), "attention_mask": tokens.long()},
            labels=targets,
            mask=targets != IGNORE,
            tokens=tokens,
            ids=[sample["id"] for sample in features],
        )

    def metrics(self) -> dict[str, Metric]:
        return {"perplexity": Perplexity(), "token_accuracy": Ratio()}

    def judge(self, metrics: Mapping[str, Metric], scores: TokenScores, batch: Batch) -> None:
        assert batch.labels is not None
        valid = batch.labels != IGNORE
        metrics["perplexity"].update(scores.nats, valid)
        metrics["token_accuracy"].update((scores.predicted == batch.labels) & valid, valid)

    def guess(self, counts: Counts, tokens: Tensor | None) -> Guess | None:
        return None if tokens is None or not counts.total else Guess(unigram(counts, tokens)[0], UNIGRAM)

    @property
    def ranks(self) -> bool:
        return True

    def ask(self, features: list[dict[str, Any]], tokenizer: Any) -> Batch:
        inputs, tokens = model_inputs(features, tokenizer)  # what is hidden is what the text says
        return Batch(inputs=inputs, tokens=tokens)

    def refuse_row(self, features: Mapping[str, Any], tokenizer: Any) -> tuple[str, str] | None:
        if tokenizer.mask_token_id in features["input_ids"]:
            return None
        return "hides nothing that the model could fill in", f"write {tokenizer.mask_token} in the place of a word"

    def answers(
        self, logits: Tensor, batch: Batch, rows: Sequence[Mapping[str, Any]], tokenizer: Any, top: int | None
    ) -> list[Answer]:
        """The most probable tokens at each mask."""
        found = []
        for row, ids in zip(logits, batch.inputs["input_ids"], strict=True):
            most = min(top or _NAMED, row.shape[-1])
            scores, tokens = row[ids == tokenizer.mask_token_id].softmax(-1).topk(most)
            masks = zip(scores, tokens.tolist(), strict=True)
            best = [[(tokenizer.decode([i]).strip(), rounded(s)) for i, s in zip(t, p, strict=True)] for p, t in masks]
            found.append({"fillings": [[{"token": token, "score": score} for token, score in mask] for mask in best]})
        return found

    def nothing(self, row: Mapping[str, Any]) -> Answer:
        return {"fillings": []}

    def fields(self, row: Mapping[str, Any], answer: Answer) -> list[list[str]]:
        masks = [[(each["token"], each["score"]) for each in mask] for mask in answer["fillings"]]
        return [[*alternatives(mask), row["text"]] for mask in masks or [[(None, None)]]]

    def script(self) -> Script:
        found = 'found = logits[0, inputs["input_ids"][0] == tokenizer.mask_token_id].argmax(-1)'
        return Script((found, "print(tokenizer.convert_ids_to_tokens(found.tolist()), text)"))


def mask_tokens(
    ids: NDArray[np.int64],
    allowed: NDArray[np.bool_],
    *,
    seed: int,
    epoch: int,
    samples: NDArray[np.int64],
    probability: float,
    mask_id: int,
    vocabulary: int,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Hide tokens: of those chosen 80 % become the mask, 10 % a random token, and 10 % stay.

    What happens to a token depends on (seed, epoch, sample, position) and nothing else.

    Args:
        ids: Tokens, ``[B, T]``.
        allowed: Which may be chosen, ``[B, T]``.
        seed: The run's seed.
        epoch: The epoch.
        samples: Ids of the samples, ``[B]``.
        probability: Share of the allowed tokens that are chosen.
        mask_id: The mask token.
        vocabulary: Random tokens are below it.

    Returns:
        Inputs and labels (:data:`~distill.core.signals.IGNORE` where nothing was chosen), each ``[B, T]``.
    """
    at = (seed, epoch, samples[:, None], np.arange(ids.shape[1])[None])
    chosen = allowed & (uniform(*at, 0) < probability)
    kind = uniform(*at, 1)
    inputs = np.where(chosen & (kind < 0.8), mask_id, ids)
    other = (uniform(*at, 2) * vocabulary).astype(np.int64)
    inputs = np.where(chosen & (kind >= 0.8) & (kind < 0.9), other, inputs)
    return inputs, np.where(chosen, ids, IGNORE)


@dataclass(frozen=True)
class _Encode:
    tokenizer: Any
    max_length: int | None

    def __call__(self, columns: dict[str, list[Any]]) -> dict[str, list[Any]]:
        texts = [text for text in columns["text"] if text]
        if not texts:
            return {"input_ids": []}
        encoded = self.tokenizer(
            texts, truncation=self.max_length is not None, max_length=self.max_length, return_attention_mask=False
        )
        return {"input_ids": encoded["input_ids"]}
