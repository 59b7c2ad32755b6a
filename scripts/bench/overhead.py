"""Section 1: what our module, our callbacks and Lightning's Trainer add to a bare PyTorch loop.

Both do the same: the same batches, collated beforehand; the same teacher, which runs in every step; students of
the same weights; the same losses (the pure functions), fused AdamW, clipping and learning-rate schedule. The bare
loop runs *inside* the Trainer's, block by block: a callback stops the clock, times one block of bare steps on
the very batches of the block before, and starts the clock again. What the machine does in the meantime falls on
both alike. A block holds one logged step of ten, as a run does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import ModelCheckpoint
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader

from bench.pair import CLIP, RATE, TEMPERATURE, WEIGHT, Pair, Settings, language_model, sst2
from bench.report import Row, row
from distill.callbacks import Determinism
from distill.callbacks.scores import LastValidation, Scores
from distill.core.signals import Batch
from distill.core.utils.quiet import quiet_lightning
from distill.losses.cross_entropy import cross_entropy
from distill.losses.hinton import hinton_kl
from distill.run.loggers.make import CsvLogger
from distill.training.optimizer import OptimizerConfig, learning_rate_factor, make_optimizer

BLOCK = 10


class Alternate(Callback):
    """Times the Trainer's blocks and, between them, blocks of the bare loop.

    Args:
        bare: Runs one block of bare steps.
        block: Steps of a block.
    """

    def __init__(self, bare: Callable[[], None], block: int) -> None:
        self.block, self._bare, self._started = block, bare, 0.0
        self.bare: list[float] = []
        self.lightning: list[float] = []

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if batch_idx % self.block:
            return
        if batch_idx:
            self.lightning.append((perf_counter() - self._started) / self.block)
        started = perf_counter()
        self._bare()
        self.bare.append((perf_counter() - started) / self.block)
        self._started = perf_counter()

    def ratios(self) -> list[float]:
        """Of each block but the first, over the mean of the two bare ones round it."""
        around = [(before + after) / 2 for before, after in zip(self.bare, self.bare[1:], strict=False)]
        return [mine / theirs for mine, theirs in zip(self.lightning, around, strict=True)][1:]


class BareLoop:
    """A training loop as one would write it by hand.

    Args:
        pair: What is trained.
        settings: Their precision is used.
        batches: Those of a block, in every block the same.
        total: Steps of the learning-rate schedule.
    """

    def __init__(self, pair: Pair, settings: Settings, batches: Sequence[Batch], total: int) -> None:
        self.teacher, self.student = pair.teacher, pair.student().train()
        self.autocast, self.batches = settings.autocast, batches
        # With a cache Llama would let the documents that share a block see each other.
        self.flags = {"use_cache": False} if hasattr(pair.teacher.config, "use_cache") else {}
        config = OptimizerConfig(lr=RATE)
        self.optimizer = make_optimizer(config, [self.student])
        self.scheduler = LambdaLR(self.optimizer, partial(learning_rate_factor, config, total_steps=total))
        self.parameters = list(self.student.parameters())

    def block(self) -> None:
        for batch in self.batches:
            self.step(batch)

    def step(self, batch: Batch) -> None:
        assert batch.labels is not None
        self.optimizer.zero_grad()
        with self.autocast():
            with torch.no_grad():
                teacher = self.teacher(**batch.inputs, **self.flags).logits.flatten(0, -2)
            student = self.student(**batch.inputs, **self.flags).logits.flatten(0, -2)
            labels = batch.labels.flatten()
            hard = cross_entropy(student, labels)
            soft = hinton_kl(student, teacher, TEMPERATURE)
            loss = (WEIGHT * hard + (1 - WEIGHT) * soft) / len(labels)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.parameters, CLIP)
        self.optimizer.step()
        self.scheduler.step()


class SameWeights(Callback):
    """Compares the two students after equally many steps; where nothing is random they are equal."""

    def __init__(self, bare: BareLoop, last: int) -> None:
        self.bare, self.last, self.difference = bare, last, float("nan")

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if batch_idx == self.last:
            mine = pl_module.student.parameters()  # type: ignore[union-attr]
            pairs = zip(mine, self.bare.student.parameters(), strict=True)
            self.difference = max(float((a - b).abs().max()) for a, b in pairs)


def measure(pair: Pair, settings: Settings) -> list[Row]:
    """The overhead on one pair."""
    block = min(BLOCK, settings.steps)
    blocks = 1 + max(1, settings.steps // block) * settings.repeats  # the first warms up
    batches = [batch for batch in pair.batches(4 * block) if batch.mask is None][:block]
    block = len(batches)
    steps = block * blocks + 1  # the last one only ends the last block
    bare = BareLoop(pair, settings, batches, steps)
    same, alternate = SameWeights(bare, steps - 1), Alternate(bare.block, block)
    with TemporaryDirectory() as folder, quiet_lightning():
        trainer = Trainer(
            accelerator="cpu",
            devices=1,
            precision=settings.precision,  # type: ignore[arg-type]
            max_steps=steps,
            gradient_clip_val=CLIP,
            log_every_n_steps=10,
            logger=CsvLogger(folder),
            callbacks=[
                same,
                alternate,
                Determinism(0),
                LastValidation(),
                Scores(),
                ModelCheckpoint(folder, save_top_k=0),
            ],
            default_root_dir=folder,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
        )
        ready = [batches[i % block] for i in range(steps)]
        loader: DataLoader[Batch] = DataLoader(ready, batch_size=None)  # type: ignore[arg-type]
        trainer.fit(pair.module(pair.source(remember=False)), train_dataloaders=loader)
    milliseconds = 1000 * median(alternate.bare[1:])
    added = [100 * (ratio - 1) for ratio in alternate.ratios()]
    long = milliseconds >= 50
    note = f"{len(added)} blocks of {block} steps" + ("" if long else "; step too short for the goal")
    rows = [
        row(f"{pair.name}: bare loop", [1000 * t for t in alternate.bare[1:]], "ms a step"),
        row(f"{pair.name}: Distillation under Trainer", [1000 * t for t in alternate.lightning[1:]], "ms a step"),
        row(f"{pair.name}: overhead", added, "%", note=note, **({"at_most": 3} if long else {})),
    ]
    if any(isinstance(module, torch.nn.Dropout) and module.p for module in bare.student.modules()):
        return rows
    name = f"{pair.name}: largest difference of weights at the end"
    return [*rows, Row(name, same.difference, "", goal="0", met=same.difference == 0, note="the math is the same")]


def overhead(settings: Settings) -> list[Row]:
    """The overhead on SST-2 and on the quick start's language models."""
    return [*measure(sst2(settings), settings), *measure(language_model(settings), settings)]
