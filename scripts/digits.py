#!/usr/bin/env python
"""Distil a small conv net into one of a thirteenth of its parameters on scikit-learn's digits, with a plain Trainer.

    python scripts/digits.py --seeds 0 1 2 3 4

The teacher learns from 1,300 labelled images. The students know the labels of 100 of them; the other 1,200 they see
without. Every student reads the same rows for as many steps; to the distilled ones the teacher speaks about all of
them, labelled or not. What it gives is in place of labels: the last row, a student with all of them, is the measure
of that. Needs scikit-learn; a seed, which draws the split, the weights and the batches, takes about 15 seconds on one
core.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import warnings

import torch
from pytorch_lightning import Trainer, seed_everything
from rich.console import Console
from rich.table import Table
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from distill import IGNORE, Batch, Distillation, OptimizerConfig
from distill.losses import CrossEntropy, DistillationLoss, FitNetHint, HintonKL
from distill.tasks import Plain

TEACHER, STUDENT = 32, 8  # channels of the first convolution


def net(width: int) -> nn.Sequential:
    """A classifier of digits, whose module ``4`` yields feature maps ``[B, 2 * width, 4, 4]``."""
    first = nn.Conv2d(1, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(), nn.MaxPool2d(2)
    second = nn.Conv2d(width, 2 * width, 3, padding=1), nn.BatchNorm2d(2 * width), nn.ReLU()
    return nn.Sequential(*first, *second, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2 * width, 10))


def every_row(raw: list[Tensor]) -> Batch:
    """A batch without a mask: a row without a label adds nothing to cross entropy, and still counts for the teacher."""
    x, y, ids = raw
    return Batch(inputs={"input": x}, labels=y, ids=ids.tolist())


def data(train: int = 1300, labelled: int = 100) -> tuple[TensorDataset, TensorDataset, TensorDataset]:
    """Rows (x, y, id): ``train`` with every label, the same with ``labelled`` labels, and the others for validation."""
    digits = load_digits()
    ids = torch.randperm(len(digits.target))
    x, y = torch.tensor(digits.images[:, None] / 16, dtype=torch.float32)[ids], torch.tensor(digits.target)[ids]
    few = torch.where(torch.arange(len(y)) < labelled, y, IGNORE)
    full, part = (TensorDataset(x[:train], labels[:train], ids[:train]) for labels in (y, few))
    return full, part, TensorDataset(x[train:], y[train:], ids[train:])


def terms(hints: bool) -> list[DistillationLoss]:
    """Labels where there are some and the teacher's predictions everywhere; and its feature maps with ``hints``."""
    terms: list[DistillationLoss] = [CrossEntropy(), HintonKL(temperature=4.0)]
    return [*terms, FitNetHint(taps={"4": "4"}, normalize=True)] if hints else terms


def fit(
    student: nn.Module,
    rows: TensorDataset,
    validation: TensorDataset,
    teacher: nn.Module | None = None,
    losses: list[DistillationLoss] | None = None,
    epochs: int = 20,
) -> tuple[float, Distillation]:
    """Train ``student``; its accuracy on ``validation`` after the last epoch, and the module that trained it."""
    module = Distillation(student, Plain(every_row), teacher, losses, OptimizerConfig(lr=1e-2))
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, DataLoader(rows, 64, shuffle=True), DataLoader(validation, 512))
    return float(trainer.callback_metrics["val/accuracy"]), module


def compare(seed: int) -> dict[str, float]:
    """Validation accuracy of the teacher and of each student, for one seed."""
    seed_everything(seed, verbose=False)
    full, part, validation = data()
    teacher = net(TEACHER)
    scores = {"teacher, 1,300 labels": fit(teacher, full, validation)[0]}
    scores["student alone, 100 labels"] = fit(net(STUDENT), part, validation)[0]
    scores["+ HintonKL + FitNetHint"] = fit(net(STUDENT), part, validation, teacher, terms(hints=True))[0]
    scores["+ HintonKL"] = fit(net(STUDENT), part, validation, teacher, terms(hints=False))[0]
    scores["student alone, 1,300 labels"] = fit(net(STUDENT), full, validation)[0]
    return scores


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    seeds = parser.parse_args().seeds
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    results = [compare(seed) for seed in seeds]

    sizes = [sum(p.numel() for p in net(width).parameters()) for width in (TEACHER, STUDENT)]
    table = Table("accuracy", *(f"seed {seed}" for seed in seeds), "mean", "sd")
    table.title = f"teacher {sizes[0]:,} parameters, student {sizes[1]:,}"
    for name in results[0]:
        scores = [result[name] for result in results]
        spread = statistics.stdev(scores) if len(scores) > 1 else 0.0
        table.add_row(name, *(f"{score:.3f}" for score in [*scores, statistics.fmean(scores), spread]))
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
