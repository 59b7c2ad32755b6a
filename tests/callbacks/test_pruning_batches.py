"""What pruning measures while training is of the samples, and not of how they were padded or divided into batches."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from distill.callbacks import GradualMagnitudePruning
from distill.core.signals import Batch

SENTENCES = [torch.arange(2, 2 + length) * (row + 3) % 28 + 2 for row, length in enumerate((3, 6, 1, 5, 4, 6, 2, 3))]


def padded(sentences: list[Tensor], length: int) -> Batch:
    """Sentences of two classes in one batch as long as told."""
    tokens = torch.stack([torch.arange(length) < len(sentence) for sentence in sentences])
    ids = torch.stack([torch.cat([s, s.new_zeros(length - len(s))]) for s in sentences])
    labels = torch.tensor([int(sentence[0]) % 2 for sentence in sentences])
    return Batch({"input_ids": ids, "attention_mask": tokens.long()}, labels=labels, tokens=tokens)


@pytest.fixture
def student(classifier: Any) -> Any:
    return lambda: classifier(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)


@pytest.fixture
def squares(student: Any, pair: Any, fit: Any) -> Any:
    """Mean squares of the layers' inputs, by Wanda, after one step on all sentences, so many to a micro-batch."""

    def run(size: int, length: int) -> dict[str, Tensor]:
        module = pair(student())
        pruning = GradualMagnitudePruning(0.5, begin=1, schedule="one_shot", criterion="wanda")
        rows = [padded(SENTENCES[at : at + size], length) for at in range(0, 8, size)]
        fit(module, pruning, rows=rows, max_steps=1, accumulate_grad_batches=8 // size)
        named = module.student.named_buffers()
        return {name.removesuffix(".input_square"): value for name, value in named if name.endswith("input_square")}

    return run


def sentence_by_sentence(model: nn.Module) -> dict[str, Tensor]:
    """The same in float64, from sentences that the model reads one at a time, so that there is no padding at all."""
    seen: dict[str, list[Tensor]] = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            keep = seen.setdefault(name, [])
            module.register_forward_pre_hook(lambda _, args, keep=keep: keep.append(args[0].flatten(0, -2)))
    with torch.no_grad():
        for sentence in SENTENCES:
            model.double()(sentence[None])
    return {name: torch.cat(rows).square().mean(0) for name, rows in seen.items()}


@pytest.mark.parametrize(("size", "length"), [(8, 6), (8, 11), (4, 7), (1, 9)])
def test_wanda_measures_tokens_and_no_padding(squares: Any, student: Any, size: int, length: int) -> None:
    expected = sentence_by_sentence(student())
    found = squares(size, length)
    assert "bert.pooler.dense" in found, "its input is one vector a sentence, not one a token"
    for name, square in found.items():
        torch.testing.assert_close(square.double(), 0.1 * expected[name], rtol=1e-5, atol=1e-8, msg=name)


def test_more_padding_prunes_the_same_weights(squares: Any) -> None:
    plain, wide = squares(8, 6), squares(8, 16)
    for name, square in plain.items():
        torch.testing.assert_close(wide[name], square, rtol=1e-6, atol=1e-9, msg=name)
