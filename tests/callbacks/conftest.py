"""Small classifiers and short runs, for the tests of callbacks that change a student's structure."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning import Callback, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import AutoConfig, AutoModelForSequenceClassification

from distill.callbacks import Determinism
from distill.core.signals import Batch
from distill.tasks import TextClassification
from distill.training.module import Distillation
from distill.training.optimizer import OptimizerConfig

_BERT = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 20}
_GROUPED = {"num_attention_heads": 8, "num_key_value_heads": 4, "pad_token_id": 0}
SIZES: dict[str, dict[str, Any]] = {
    "bert": _BERT,
    "roberta": _BERT,
    "distilbert": {"dim": 16, "n_layers": 3, "n_heads": 4, "hidden_dim": 20},
    "gpt2": {"n_embd": 16, "n_layer": 3, "n_head": 4, "n_inner": 20, "pad_token_id": 0},
    "llama": _BERT | _GROUPED,
    "qwen2": _BERT | _GROUPED,
}


# Plain functions, which structured/ranks.py imports too, each with a fixture of its name for the tests.


def classifier(family: str = "bert", seed: int = 0, **changes: Any) -> Any:
    """Of two classes, with weights large enough for every head to matter."""
    torch.manual_seed(seed)
    config = AutoConfig.for_model(family, vocab_size=30, max_position_embeddings=20, **(SIZES[family] | changes))
    config.id2label, config.label2id = {0: "a", 1: "b"}, {"a": 0, "b": 1}
    model = AutoModelForSequenceClassification.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


def batches(count: int = 12) -> list[Batch]:
    """Of four sentences of 3 to 6 tokens."""
    generator = torch.Generator().manual_seed(0)
    made = []
    for _ in range(count):
        ids = torch.randint(2, 30, (4, 6), generator=generator)
        tokens = torch.arange(6) < torch.randint(3, 7, (4, 1), generator=generator)
        inputs = {"input_ids": ids.where(tokens, 0), "attention_mask": tokens.long()}
        made.append(Batch(inputs, labels=torch.randint(0, 2, (4,), generator=generator), tokens=tokens))
    return made


def pair(student: Any, optimizer: OptimizerConfig | None = None, **arguments: Any) -> Distillation:
    """The module of a student, alone unless a teacher is given."""
    optimizer = optimizer or OptimizerConfig(lr=0.01, warmup=0)
    return Distillation(student, TextClassification(["a", "b"]), optimizer=optimizer, **arguments)


def fit(
    module: Distillation,
    *callbacks: Callback,
    resume: Path | None = None,
    rows: list[Batch] | None = None,
    loader: DataLoader[Any] | None = None,
    **arguments: Any,
) -> Trainer:
    """Eight steps of :func:`batches`, unless told otherwise."""
    defaults: dict[str, Any] = {"max_steps": 8, "gradient_clip_val": 1.0}
    trainer = Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[*callbacks, Determinism()],
        **(defaults | arguments),
    )
    rows = rows or batches(arguments.get("accumulate_grad_batches", 1) * 12)
    data = loader or DataLoader(rows, batch_size=None)  # type: ignore[arg-type]
    trainer.fit(module, data, ckpt_path=resume, weights_only=True)
    return trainer


def logits(model: nn.Module) -> Tensor:
    """What the model says of the first batch, in eval mode."""
    with torch.no_grad():
        out: Tensor = model.eval()(**batches(1)[0].inputs).logits
        return out


@pytest.fixture(name="classifier")
def _classifier() -> Callable[..., Any]:
    return classifier


@pytest.fixture(name="batches")
def _batches() -> Callable[..., list[Batch]]:
    return batches


@pytest.fixture(name="pair")
def _pair() -> Callable[..., Distillation]:
    return pair


@pytest.fixture(name="fit")
def _fit() -> Callable[..., Trainer]:
    return fit


@pytest.fixture(name="logits")
def _logits() -> Callable[[nn.Module], Tensor]:
    return logits
