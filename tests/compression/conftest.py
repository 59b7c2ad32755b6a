"""Models small enough for tests."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import BertConfig, BertForSequenceClassification, GPT2Config, GPT2LMHeadModel


class ConvNet(nn.Module):
    """Two convolutions and a linear head."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Conv2d(1, 4, 3, padding=1)
        self.second = nn.Conv2d(4, 6, 3, padding=1, groups=2)
        self.head = nn.Linear(6, 3)

    def forward(self, input: Tensor) -> Tensor:
        return self.head(self.second(self.first(input).relu()).relu().mean((2, 3)))


@pytest.fixture
def bert() -> Callable[..., Any]:
    """Makes a classifier of one layer."""

    def make(seed: int = 0, layers: int = 1) -> Any:
        torch.manual_seed(seed)
        sizes = {"hidden_size": 16, "num_hidden_layers": layers, "num_attention_heads": 2, "intermediate_size": 32}
        config = BertConfig(vocab_size=40, max_position_embeddings=16, initializer_range=0.2, **sizes)
        return BertForSequenceClassification(config).eval()

    return make


@pytest.fixture
def gpt2() -> Callable[..., Any]:
    """Makes a language model of one layer, whose head is its embedding."""

    def make(seed: int = 0, **config: Any) -> Any:
        torch.manual_seed(seed)
        sizes = {"vocab_size": 30, "n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 16}
        return GPT2LMHeadModel(GPT2Config(**sizes, initializer_range=0.3, eos_token_id=0, **config)).eval()

    return make


@pytest.fixture
def convnet() -> Callable[[], nn.Module]:
    """Makes a plain net of two convolutions and a linear head."""
    return ConvNet


@pytest.fixture
def tokens() -> Tensor:
    """Token ids ``[4, 6]``."""
    return torch.randint(1, 30, (4, 6), generator=torch.Generator().manual_seed(0))
