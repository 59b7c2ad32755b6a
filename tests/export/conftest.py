"""A small classifier, plain and quantized, and data to compare exports on."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from transformers import BertConfig, BertForSequenceClassification

from distill.compression.quantization.lifecycle import finish, follow
from distill.compression.quantization.scheme import ActivationScheme, WeightScheme
from distill.compression.quantization.select import choose, swap
from distill.compression.quantization.storage import step_of
from distill.core.forward import forward
from distill.core.record import note
from distill.core.signals import Batch, Request
from distill.export.onnx.graph import feed
from distill.tasks import TextClassification

VOCABULARY = 61


def make_inputs(batch: int, length: int, seed: int = 0) -> dict[str, Tensor]:
    """Tokens of two segments, every row but the first padded."""
    torch.manual_seed(seed)
    mask = torch.ones(batch, length, dtype=torch.long)
    for row in range(1, batch):
        mask[row, max(1, length - 2 * row) :] = 0
    return {
        "input_ids": torch.randint(1, VOCABULARY, (batch, length)) * mask,
        "attention_mask": mask,
        "token_type_ids": torch.randint(0, 2, (batch, length)) * mask,
    }


@pytest.fixture(scope="session")
def inputs() -> Callable[..., dict[str, Tensor]]:
    """Tokens of two segments by batch size and length."""
    return make_inputs


@pytest.fixture(scope="session")
def batches() -> list[Batch]:
    """Batches of several sizes and lengths, with labels."""
    made = [make_inputs(batch, length, seed=length) for batch, length in ((8, 21), (8, 9), (3, 32), (1, 5))]
    return [
        Batch(inputs=each, tokens=each["attention_mask"].bool(), labels=torch.arange(len(each["input_ids"])) % 2)
        for each in made
    ]


@pytest.fixture(scope="session")
def task() -> TextClassification:
    return TextClassification(["negative", "positive"])


@pytest.fixture(scope="session")
def bert() -> BertForSequenceClassification:
    """One layer deep, as exporters are slow, with weights so large that tokens matter."""
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=4,
        intermediate_size=48,
        max_position_embeddings=32,
        initializer_range=0.2,
    )
    return BertForSequenceClassification(config).eval()


Quantize = Callable[[torch.nn.Module, WeightScheme, ActivationScheme | None], torch.nn.Module]


@pytest.fixture(scope="session")
def quantize(batches: list[Batch]) -> Quantize:
    """Gives a quantized copy of a model, with ranges from two batches, frozen."""

    def make(model: torch.nn.Module, weights: WeightScheme, activations: ActivationScheme | None) -> torch.nn.Module:
        model = copy.deepcopy(model).train()
        chosen = choose(model, weights=weights, activations=activations, embeddings=WeightScheme(), key="qat")
        layers = swap(model, chosen)
        for layer in layers.values():
            layer.observing = True
        with torch.no_grad():
            for batch in batches[:2]:
                forward(model, feed(batch), Request(logits=True))
                follow(layers.values())
        note(model, step_of(finish(layers)))
        return model.eval()

    return make


@pytest.fixture(scope="session")
def quantized(bert: BertForSequenceClassification, quantize: Quantize) -> torch.nn.Module:
    """The same classifier in int8 over the full range, inputs static."""
    return quantize(bert, WeightScheme(), ActivationScheme())
