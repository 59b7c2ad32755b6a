"""A small BERT, batches that it reads, and short runs that quantize it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning import Callback, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import BertConfig, BertForSequenceClassification

from distill.callbacks import Determinism
from distill.compression.quantization.layers import QuantizedLayer
from distill.core.signals import Batch
from distill.losses import CrossEntropy, DistillationLoss, HintonKL
from distill.tasks import TextClassification
from distill.training.module import Distillation
from distill.training.optimizer import OptimizerConfig

Make = Callable[..., Any]


class Watch(Callback):
    """What ``look`` sees of the student before each step."""

    def __init__(self, look: Callable[[nn.Module], Any]) -> None:
        self.look = look
        self.seen: list[Any] = []

    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self.seen.append(self.look(pl_module.student))


@pytest.fixture
def watching() -> type[Watch]:
    """The callback :class:`Watch`."""
    return Watch


@pytest.fixture
def bert() -> Make:
    """Makes a classifier of two classes, with weights large enough for rounding to matter."""

    def make(seed: int = 0, layers: int = 1, dropout: float = 0.1) -> Any:
        torch.manual_seed(seed)
        sizes = {"hidden_size": 16, "num_hidden_layers": layers, "num_attention_heads": 2, "intermediate_size": 32}
        drops = {"hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout}
        return BertForSequenceClassification(
            BertConfig(vocab_size=40, max_position_embeddings=16, initializer_range=0.2, **sizes, **drops)
        )

    return make


@pytest.fixture
def batches() -> Make:
    """Makes so many batches of eight sentences of six tokens, the same each time."""

    def make(count: int, size: int = 8) -> list[Batch]:
        generator = torch.Generator().manual_seed(1)
        made = []
        for index in range(count):
            ids = torch.randint(1, 40, (size, 6), generator=generator)
            inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
            rows = list(range(index * size, (index + 1) * size))
            made.append(Batch(inputs, labels=(ids[:, 0] > 20).long(), tokens=torch.ones_like(ids).bool(), ids=rows))
        return made

    return make


@pytest.fixture
def module(bert: Make) -> Make:
    """Pairs a student, a new one unless it is given, with a teacher of two layers."""

    def make(student: Any = None, losses: list[DistillationLoss] | None = None, **optimizer: Any) -> Distillation:
        return Distillation(
            bert() if student is None else student,
            TextClassification(["no", "yes"]),
            bert(7, layers=2),
            losses or [CrossEntropy(), HintonKL()],
            OptimizerConfig(**({"lr": 1e-2, "warmup": 0} | optimizer)),
        )

    return make


@pytest.fixture
def loader() -> Make:
    """A loader of batches as they are."""
    return lambda rows: DataLoader(rows, batch_size=None)


@pytest.fixture
def fit(tmp_path: Path, batches: Make, loader: Make) -> Make:
    """Trains for ten steps, unless told otherwise."""

    def run(
        model: Distillation, *callbacks: Callback, rows: list[Batch] | None = None, resume: Any = None, **more: Any
    ) -> Trainer:
        defaults: dict[str, Any] = {
            "accelerator": "cpu",
            "logger": False,
            "enable_checkpointing": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "max_steps": 10,
            "default_root_dir": tmp_path,
            "num_sanity_val_steps": 0,
            "limit_val_batches": 0,
            "log_every_n_steps": 1,
        }
        trainer = Trainer(**(defaults | more), callbacks=[*callbacks, Determinism(1)])
        trainer.fit(model, loader(rows or batches(10)), loader(batches(2)), ckpt_path=resume, weights_only=True)
        return trainer

    return run


@pytest.fixture
def layer() -> Make:
    """The quantized layer of a student that tests look at."""

    def find(student: nn.Module) -> QuantizedLayer:
        found = student.get_submodule("bert.encoder.layer.0.intermediate.dense")
        assert isinstance(found, QuantizedLayer)
        return found

    return find


@pytest.fixture
def predicted(batches: Make) -> Make:
    """What a student says of the first batch, in eval mode."""

    def predict(student: nn.Module) -> Tensor:
        with torch.no_grad():
            logits: Tensor = student.eval()(**batches(1)[0].inputs).logits
            return logits

    return predict
