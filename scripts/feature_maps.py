#!/usr/bin/env python
"""Losses over feature maps: a residual net taught by one of twice its width on Fashion-MNIST, beside labels only.

    python scripts/feature_maps.py --data /usr/share/datasets/fashion-mnist --seeds 0 1 2

The four files of Fashion-MNIST are those of the Debian package dataset-fashion-mnist. One teacher learns from 10,000
labelled images. Every student learns from 1,000 of these for as many steps, from their labels, and from the teacher in
one of several ways; a seed draws its weights and batches. Scored are the 10,000 test images, after the last step:
nothing is chosen by them, and neither are the weights of the losses, each of which made its term about as large as
the cross entropy at the first steps. Three seeds take about 5 minutes on one core.
"""

from __future__ import annotations

import argparse
import gzip
import logging
import statistics
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from pytorch_lightning import Trainer, seed_everything
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from distill import Distillation, OptimizerConfig
from distill.losses import (
    ContrastiveRepresentation,
    CrossEntropy,
    DistillationLoss,
    FeatureAttention,
    FitNetHint,
    FlowOfSolution,
    HintonKL,
    VariationalInformation,
)
from distill.tasks import Plain

TEACHER, STUDENT = 32, 16  # channels of the first stage
STAGES = {f"stages.{index}": f"stages.{index}" for index in range(3)}
LAST = {"stages.2": "stages.2"}


class Block(nn.Module):
    """Two convolutions, and what goes past them."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        first = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()
        second = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False), nn.BatchNorm2d(outputs)
        self.body = nn.Sequential(*first, *second)
        self.past = nn.Conv2d(inputs, outputs, 1, stride, bias=False) if (inputs, stride) != (outputs, 1) else None

    def forward(self, x: Tensor) -> Tensor:
        past = x if self.past is None else self.past(x)
        out: Tensor = (self.body(x) + past).relu()
        return out


class Net(nn.Module):
    """A residual net: maps of 14 x 14, 7 x 7 and 4 x 4 after its three stages."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, width, 3, 2, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU())
        widths = [width, width, 2 * width, 4 * width]
        blocks = [Block(widths[at], widths[at + 1], 1 if at == 0 else 2) for at in range(3)]
        self.stages = nn.Sequential(*blocks)
        self.head = nn.Linear(4 * width, 10)

    def forward(self, input: Tensor) -> Tensor:
        logits: Tensor = self.head(self.stages(self.stem(input)).mean((2, 3)))
        return logits


def kl() -> DistillationLoss:
    return HintonKL(temperature=4.0, weight=0.5)


WAYS: dict[str, Callable[[], list[DistillationLoss]]] = {
    "labels only": list,
    "KL": lambda: [kl()],
    "KL + FitNetHint": lambda: [kl(), FitNetHint(taps=STAGES, weight=1.0)],
    "KL + FeatureAttention (AT)": lambda: [kl(), FeatureAttention(STAGES, weight=5.0)],
    "KL + FlowOfSolution (FSP)": lambda: [kl(), FlowOfSolution(STAGES, weight=3e-4)],
    "KL + VariationalInformation (VID)": lambda: [kl(), VariationalInformation(STAGES, weight=1.0)],
    "KL + ContrastiveRepresentation (CRD)": lambda: [kl(), ContrastiveRepresentation(LAST, weight=0.02)],
}
"""Beside cross entropy."""


def read(path: Path) -> Tensor:
    """The numbers of a file of MNIST's format, whose header gives their shape."""
    raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    shape = [int.from_bytes(raw[4 + 4 * at : 8 + 4 * at], "big") for at in range(raw[3])]
    return torch.frombuffer(bytearray(raw[4 + 4 * raw[3] :]), dtype=torch.uint8).reshape(shape)


def images(folder: Path, split: str, rows: int) -> TensorDataset:
    """The first ``rows`` images ``[1, 28, 28]``, with mean 0 and spread 1 over the data set, and their labels."""
    x, y = (read(next(folder.glob(f"{split}-{what}-ubyte*")))[:rows] for what in ("images-idx3", "labels-idx1"))
    return TensorDataset((x[:, None].float() / 255 - 0.286) / 0.353, y.long())


def fit(
    student: nn.Module,
    train: TensorDataset,
    test: TensorDataset,
    epochs: int,
    teacher: nn.Module | None = None,
    losses: list[DistillationLoss] | None = None,
    batch: int = 64,
) -> float:
    """Train ``student``; its accuracy on ``test`` after the last step."""
    taught = teacher if losses else None
    module = Distillation(student, Plain(), taught, [CrossEntropy(), *(losses or [])], OptimizerConfig(lr=3e-3))
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, DataLoader(train, batch, shuffle=True, drop_last=True))
    x, y = test.tensors
    with torch.no_grad():
        answers = torch.cat([student.eval()(part).argmax(-1) for part in torch.split(x, 500)])
    return float((answers == y).float().mean())


def compare(
    folder: Path,
    seeds: list[int],
    ways: list[str],
    rows: int = 1000,
    epochs: int = 12,
    test_rows: int = 10_000,
    batch: int = 64,
) -> dict[str, list[float]]:
    """Test accuracy of the teacher, and of a student for each way and seed."""
    many, few = images(folder, "train", 10 * rows), images(folder, "train", rows)
    test = images(folder, "t10k", test_rows)
    seed_everything(100, verbose=False)
    teacher = Net(TEACHER)
    scores = {"teacher": [fit(teacher, many, test, max(1, epochs // 4), batch=batch)]}
    for name in ways:
        scores[name] = []
        for seed in seeds:
            seed_everything(seed, verbose=False)
            scores[name].append(fit(Net(STUDENT), few, test, epochs, teacher, WAYS[name](), batch))
            print(f"{name}, seed {seed}: {scores[name][-1]:.4f}", flush=True)
    return scores


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with Fashion-MNIST's four files")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--ways", nargs="+", choices=list(WAYS), default=list(WAYS))
    options = parser.parse_args()
    torch.set_num_threads(1)
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    scores = compare(options.data, options.seeds, options.ways)
    sizes = [sum(p.numel() for p in Net(width).parameters()) for width in (TEACHER, STUDENT)]
    table = Table("test accuracy", *(f"seed {seed}" for seed in options.seeds), "mean", "sd")
    table.title = f"teacher {sizes[0]:,} parameters ({scores['teacher'][0]:.4f}), student {sizes[1]:,}"
    for name in options.ways:
        found = scores[name]
        spread = statistics.stdev(found) if len(found) > 1 else 0.0
        table.add_row(name, *(f"{score:.4f}" for score in found), f"{statistics.mean(found):.4f}", f"{spread:.4f}")
    Console(width=140).print(table)


if __name__ == "__main__":
    main()
