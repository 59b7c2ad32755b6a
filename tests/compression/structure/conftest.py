"""Small transformers of every family."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification

_BERT = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 20}
_LLAMA = _BERT | {"hidden_size": 12, "num_attention_heads": 6, "num_key_value_heads": 3, "head_dim": 4}
SIZES: dict[str, dict[str, Any]] = {
    "bert": _BERT,
    "roberta": _BERT,
    "distilbert": {"dim": 16, "n_layers": 3, "n_heads": 4, "hidden_dim": 20},
    "gpt2": {"n_embd": 16, "n_layer": 3, "n_head": 4, "n_inner": 20},
    "llama": _LLAMA | {"attention_bias": True, "mlp_bias": True},
    "qwen2": _LLAMA,
    "qwen3": _LLAMA,
}


def make(family: str, seed: int = 0, **changes: Any) -> Any:
    """A model whose weights are large enough for every head to matter, in eval mode."""
    torch.manual_seed(seed)
    config = AutoConfig.for_model(family, vocab_size=30, max_position_embeddings=40, **(SIZES[family] | changes))
    causal = family in ("gpt2", "llama", "qwen2", "qwen3")
    model = (AutoModelForCausalLM if causal else AutoModelForSequenceClassification).from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return model.eval()


@pytest.fixture
def tiny() -> Callable[..., Any]:
    return make


@pytest.fixture(params=sorted(SIZES))
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def inputs() -> dict[str, torch.Tensor]:
    """Two sentences, of which one is padded."""
    ids = torch.randint(2, 30, (2, 7), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids)
    mask[1, 5:] = 0
    return {"input_ids": ids, "attention_mask": mask}
