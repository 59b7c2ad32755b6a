#!/usr/bin/env python
"""Remove channels of a small ResNet on Fashion-MNIST: two and four times fewer multiplications, alone and distilled.

    python scripts/channels.py --data /usr/share/datasets/fashion-mnist

The dense net learns from all labels; it is the teacher, and where the pruned nets begin. They lose channels in the
first half of their training and learn on without them, from the labels alone or from labels and teacher. The data is
that of the Debian package dataset-fashion-mnist; times are those of onnxruntime on one thread.
"""

from __future__ import annotations

import argparse
import copy
import gzip
import logging
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import numpy
import torch
from pytorch_lightning import Trainer, seed_everything
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import distill
from distill import Distillation, OptimizerConfig
from distill.callbacks import StructuredPruning
from distill.compression.structure.channels import multiplications
from distill.export.onnx.runtime import latency, session
from distill.losses import CrossEntropy, HintonKL
from distill.tasks import Plain


def conv(into: int, out: int, size: int = 3, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(into, out, size, stride, size // 2, bias=False), nn.BatchNorm2d(out))


class Block(nn.Module):
    def __init__(self, into: int, out: int, stride: int) -> None:
        super().__init__()
        self.a, self.b = conv(into, out, 3, stride), conv(out, out)
        self.short = nn.Identity() if into == out else conv(into, out, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.b(torch.relu(self.a(x))) + self.short(x))


def resnet(width: int = 32) -> nn.Sequential:
    one, two, four = width, 2 * width, 4 * width
    blocks = Block(one, one, 1), Block(one, two, 2), Block(two, four, 2)
    return nn.Sequential(
        conv(1, one, 3, 2), nn.ReLU(), *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(four, 10)
    )


def read(folder: Path, part: str, count: int) -> TensorDataset:
    def values(kind: str, offset: int) -> Tensor:
        raw = gzip.decompress((folder / f"{part}-{kind}-ubyte.gz").read_bytes())
        return torch.tensor(numpy.frombuffer(raw, numpy.uint8, offset=offset).copy())

    x = values("images-idx3", 16).view(-1, 1, 28, 28)[:count].float()
    return TensorDataset((x / 255 - 0.286) / 0.353, values("labels-idx1", 8)[:count].long())


def fit(net: nn.Module, data: Any, epochs: float, teacher: nn.Module | None = None, channels: float = 0.0) -> Any:
    """Train; the finished student and its accuracy."""
    losses = [CrossEntropy(), HintonKL(temperature=4.0)] if teacher is not None else None
    module = Distillation(net, Plain(), teacher, losses, OptimizerConfig(lr=4e-3))
    pruning: list[Any] = (
        [StructuredPruning(channels=channels, criterion="taylor", begin=0.1, end=0.5)] if channels else []
    )
    quiet: dict[str, Any] = dict.fromkeys(
        ("enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False
    )
    steps = int(epochs * len(data[0]) / 128)
    trainer = Trainer(accelerator="cpu", max_steps=steps, logger=False, callbacks=pruning, **quiet)
    trainer.fit(module, DataLoader(data[0], 128, shuffle=True), DataLoader(data[1], 500))
    done = distill.finish(trainer)
    return done.student, done.scores["val/accuracy"]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--data", type=Path, default=Path("/usr/share/datasets/fashion-mnist"))
    parser.add_argument("--train", type=int, default=60000, help="how many images to learn from")
    parser.add_argument("--epochs", type=float, default=3, help="of the dense net, and again of every pruned one")
    parser.add_argument("--width", type=int, default=32)
    given = parser.parse_args()
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    seed_everything(0, verbose=False)
    data = read(given.data, "train", given.train), read(given.data, "t10k", 10000)
    dense, score = fit(resnet(given.width), data, given.epochs)
    begin, rows = copy.deepcopy(dense), {"dense": (dense, score)}  # a teacher is frozen
    for times, channels in ((2, 0.29), (4, 0.5)):
        for name, teacher in (("labels alone", None), ("distilled", dense)):
            seed_everything(1, verbose=False)
            start = time.time()
            rows[f"1/{times}, {name}"] = fit(copy.deepcopy(begin), data, given.epochs, teacher, channels)
            print(f"1/{times}, {name}: {rows[f'1/{times}, {name}'][1]:.4f}, {time.time() - start:.0f} s", flush=True)
    image = data[1].tensors[0][:32]
    with tempfile.TemporaryDirectory() as folder:
        sessions: dict[str, Any] = {}
        for name, (net, _) in rows.items():
            path = Path(folder) / f"{len(sessions)}.onnx"
            batch = {0: torch.export.Dim("batch")}
            torch.onnx.export(net, (image[:2],), path, dynamo=True, dynamic_shapes=[batch], verbose=False)
            sessions[name] = session(path)
        inputs = {name: one.get_inputs()[0].name for name, one in sessions.items()}
        times_of = {
            size: latency(sessions, {name: {inputs[name]: image[:size]} for name in rows}, 300 if size == 1 else 100)
            for size in (1, 32)
        }
    print("| net | accuracy | multiplications | parameters | ms, batch 1 | ms, batch 32 |")
    print("|---|---|---|---|---|---|")
    for name, (net, accuracy) in rows.items():
        count = multiplications(net, lambda model: [model(image[:1])]) / 1e6
        parameters = sum(p.numel() for p in net.parameters()) / 1e3
        print(f"| {name} | {accuracy:.4f} | {count:.2f} M | {parameters:.0f} k | "
              f"{times_of[1][name]:.3f} | {times_of[32][name]:.2f} |")  # fmt: skip


if __name__ == "__main__":
    main()
