"""What is trained: a teacher, students cut from it, and the real order of batches of their data."""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from pytorch_lightning import seed_everything
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, LlamaConfig

from distill.core.model_spec import ModelSpec
from distill.core.signals import Batch
from distill.core.utils.quiet import quiet_lightning
from distill.data import TextData
from distill.data.batches import TrainingBatches
from distill.losses import CrossEntropy, HintonKL
from distill.models.pretrained import load_model
from distill.models.students import StudentConfig, build_student
from distill.models.teachers import LiveTeacher
from distill.tasks import TextTask
from distill.training.module import Distillation
from distill.training.optimizer import OptimizerConfig

WEIGHT, TEMPERATURE, CLIP, RATE = 0.5, 2.0, 1.0, 5e-5
"""The objective of every contender: half cross entropy, half T^2 KL at T = 2, gradients clipped at norm 1."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The command line.

    Attributes:
        data: Folder of SST-2.
        model: Folder or hub id of the encoder that becomes the teacher.
        steps: Timed steps of a repeat.
        repeats: Repeats, among which the contenders alternate.
        precision: ``32-true`` or ``bf16-mixed``, of all contenders alike.
        phrases: Size of the training subset.
        batch_size: Phrases of a batch; blocks of the language model are half as many.
        max_length: Most tokens of a phrase.
    """

    data: str
    model: str
    steps: int = 60
    repeats: int = 5
    precision: str = "32-true"
    phrases: int = 20_000
    batch_size: int = 32
    max_length: int = 64

    @property
    def bf16(self) -> bool:
        return self.precision == "bf16-mixed"

    def autocast(self) -> AbstractContextManager[Any]:
        """What the contenders that bring no precision of their own run their models in."""
        return torch.autocast("cpu", torch.bfloat16) if self.bf16 else nullcontext()


@dataclass(frozen=True)
class Pair:
    """A teacher and its data.

    Attributes:
        name: For the tables.
        data: Set up.
        task: With its classes.
        teacher: Frozen and in eval mode.
        student: Makes a student of its own each time, always of the same weights.
    """

    name: str
    data: TextData
    task: TextTask
    teacher: nn.Module
    student: Callable[[], nn.Module]

    def module(self, teacher: LiveTeacher) -> Distillation:
        """A fresh student with ``teacher`` and the objective."""
        return Distillation(
            student=self.student(),
            task=self.task,
            teacher=teacher,
            losses=[CrossEntropy(weight=WEIGHT), HintonKL(TEMPERATURE, weight=1 - WEIGHT)],
            optimizer=OptimizerConfig(lr=RATE),
        )

    def source(self, *, remember: bool) -> LiveTeacher:
        """The teacher as a source that has seen nothing yet."""
        return LiveTeacher(self.teacher, self.task, remember=remember)

    def keys(self, count: int, seed: int) -> list[list[tuple[int, int]]]:
        """``count`` random full batches of the first epoch, as the loader would draw them.

        Where there are too few the same ones come again.
        """
        order = self.data.train_dataloader().batch_sampler
        assert isinstance(order, TrainingBatches)
        batches = [rows.tolist() for rows in order.epoch(0) if len(rows) == self.data.batch_size]
        random.Random(seed).shuffle(batches)
        return [[(0, int(r)) for r in batches[i % len(batches)]] for i in range(count)]

    def batches(self, count: int, seed: int = 0) -> list[Batch]:
        """The batches of :meth:`keys`, collated."""
        loader = self.data.train_dataloader()
        assert loader.collate_fn is not None
        return [loader.collate_fn([loader.dataset[key] for key in keys]) for keys in self.keys(count, seed)]


def objective(student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
    """The objective of every contender that is not ours, written with the operations of torch.

    Args:
        student: Logits ``[..., C]``.
        teacher: Logits ``[..., C]``.
        labels: Classes ``[...]``; all count.
    """
    student, teacher = student.float().flatten(0, -2), teacher.float().flatten(0, -2)
    hard = nn.functional.cross_entropy(student, labels.flatten())
    soft = nn.functional.kl_div(
        nn.functional.log_softmax(student / TEMPERATURE, -1),
        nn.functional.log_softmax(teacher / TEMPERATURE, -1),
        reduction="batchmean",
        log_target=True,
    )
    return WEIGHT * hard + (1 - WEIGHT) * TEMPERATURE**2 * soft


def sst2(settings: Settings) -> Pair:
    """SST-2: an encoder with a fresh head, and students of every second of its layers.

    What is learned does not matter here, only what it costs.
    """
    data = TextData(
        path=settings.data,
        tokenizer=settings.model,
        max_length=settings.max_length,
        batch_size=settings.batch_size,
        train_samples=settings.phrases,
    )
    data.setup("fit")
    seed_everything(0, verbose=False)
    teacher = load_model(settings.model, data.task.auto_model, "--model", head=data.task.head_config())
    half = StudentConfig(layers="uniform", num_layers=max(1, ModelSpec(teacher, "--model").num_layers // 2))
    teacher.requires_grad_(False).eval()  # type: ignore[no-untyped-call]
    return Pair("SST-2", data, data.task, teacher, partial(build_student, half, data.task, teacher, data.labels))


def language_model(settings: Settings) -> Pair:
    """The quick start's pair of language models, untrained, on packed blocks of the standard library's source."""
    data = TextData(
        path="distill:stdlib",
        task="causal-lm",
        tokenizer="distill:quickstart/tokenizer",
        batch_size=max(1, settings.batch_size // 2),
        train_samples=64,
    )
    data.setup("fit")
    seed_everything(0, verbose=False)
    teacher = _llama(len(data.tokenizer), width=256, layers=6, heads=8)
    teacher.requires_grad_(False).eval()

    def student() -> nn.Module:
        seed_everything(0, verbose=False)
        return _llama(len(data.tokenizer), width=96, layers=3, heads=4)

    return Pair("language model", data, data.task, teacher, student)


def _llama(vocabulary: int, *, width: int, layers: int, heads: int) -> nn.Module:
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=width * 8 // 3,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        bos_token_id=0,
        eos_token_id=0,
    )
    with quiet_lightning():
        model: nn.Module = AutoModelForCausalLM.from_config(config, dtype=torch.float32)  # type: ignore[no-untyped-call]
    return model.train()
