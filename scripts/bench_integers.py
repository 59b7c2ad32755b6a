#!/usr/bin/env python
"""What an int8 file costs in onnxruntime beside the float one, and beside onnxruntime's own static quantization.

    python scripts/bench_integers.py [--net NAME ...] [--repeats N] [--all-layers] [--fashion FOLDER]

Random weights, which take the time that trained ones take; the ranges are of the same images for both. One thread,
calls interleaved, medians of the thread's own time, so that other programs do not count. ``integer`` is how many of the
convolutions and matrix products that have weights are integer operators in the graph that onnxruntime runs.
--all-layers quantizes the first layer and the head too, as onnxruntime does. Takes about two minutes.

--fashion trains the nets on 6,000 images of Fashion-MNIST (its four .gz files, as Debian's ``dataset-fashion-mnist``
has them) for three epochs, and prints the accuracy of each file on 5,000 others instead; both quantizations are without
training, with ranges of the same 256 images.
"""

from __future__ import annotations

import argparse
import copy
import gzip
import logging
import tempfile
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch
from bench.vision_nets import NETS
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from distill.compression.quantization.ptq import quantize
from distill.compression.quantization.scheme import ActivationScheme
from distill.export.onnx.convert import with_integers
from distill.export.onnx.graph import to_onnx
from distill.export.onnx.isa import host_isa
from distill.export.onnx.runtime import integer_matmuls, logits, session

KINDS = ("float", "ours", "quantize_static")


def main(argv: Sequence[str] | None = None) -> list[dict[str, Any]]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--net", action="append", choices=NETS, help="this one; may be given again")
    parser.add_argument("--repeats", type=int, default=200)
    parser.add_argument("--all-layers", action="store_true")
    parser.add_argument("--fashion", type=Path, metavar="FOLDER")
    given = parser.parse_args(argv)
    torch.set_num_threads(1)
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return figures(given)
    finally:
        logging.disable(before)


def figures(given: argparse.Namespace) -> list[dict[str, Any]]:
    """The rows of the table that is asked for, which is printed."""
    if given.fashion is not None:
        return accuracies(given.net or list(NETS), given.fashion, all_layers=given.all_layers)
    rows = []
    for name in given.net or NETS:
        torch.manual_seed(0)
        net = settled(NETS[name](), images(64))
        rows += measured(name, net, images(64), given.repeats, all_layers=given.all_layers)
    show(rows)
    return rows


def images(count: int, side: int = 28, channels: int = 1) -> Tensor:
    """Smooth noise: neighbouring pixels are alike."""
    coarse = torch.randn(count, channels, side // 4, side // 4, generator=torch.Generator().manual_seed(1))
    return nn.functional.interpolate(coarse, size=side, mode="bilinear")


@torch.no_grad()
def settled(net: nn.Module, x: Tensor) -> nn.Module:
    """The net with norms that have seen some images, and factors that are not all alike."""
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None
            module.weight.uniform_(0.5, 1.5)
            module.bias.uniform_(-0.5, 0.5)
    net.train()(x)
    return net.eval()


def measured(
    name: str, net: nn.Module, x: Tensor, repeats: int, *, all_layers: bool = False, batches: Sequence[int] = (1, 32)
) -> list[dict[str, Any]]:
    """One row a batch size: milliseconds of each kind of file, and which of the products are integer."""
    with tempfile.TemporaryDirectory() as parent:
        input, paths = write_graphs(net, x, Path(parent), all_layers=all_layers)
        integer = {kind: sum(integer_matmuls(path).values()) for kind, path in paths.items()}
        sessions = {kind: session(path) for kind, path in paths.items()}
        rows = []
        for batch in batches:
            feed = {kind: {input: x[:batch]} for kind in sessions}
            times = cpu_time(sessions, feed, repeats if batch == 1 else max(10, repeats // 5))
            rows.append({"net": name, "batch": batch, "products": products(net), "integer": integer, "ms": times})
    return rows


def write_graphs(net: nn.Module, x: Tensor, folder: Path, *, all_layers: bool) -> tuple[str, dict[str, Path]]:
    """The name of the net's input, and the file of each kind, with ranges of these images."""
    input = "pixel_values" if hasattr(net, "config") else "input"
    paths = {kind: folder / f"{kind}.onnx" for kind in KINDS}
    to_onnx(net, paths["float"], {input: x[:2]}, fixed=True)
    ours, include = copy.deepcopy(net), [""] if all_layers else None
    quantize(ours, torch.split(x, 16), run, activations=ActivationScheme(), include=include)
    to_onnx(with_integers(ours, unsigned=host_isa() == "avx2"), paths["ours"], {input: x[:2]}, fixed=True)
    static(paths["float"], paths["quantize_static"], {input: x})
    return input, paths


def accuracies(names: Sequence[str], folder: Path, *, all_layers: bool) -> list[dict[str, Any]]:
    """One row a net: the accuracy of each kind of file, of a net that was trained on Fashion-MNIST."""
    x, y, seen, labels = (*fashion(folder, "train", 6000), *fashion(folder, "t10k", 5000))
    table, rows = Table("net", *KINDS), []
    for name in names:
        torch.manual_seed(0)
        net = trained(NETS[name](), x, y)
        with tempfile.TemporaryDirectory() as parent:
            input, paths = write_graphs(net, x[:256], Path(parent), all_layers=all_layers)
            row: dict[str, Any] = {"net": name}
            for kind, path in paths.items():
                found = torch.cat([logits(session(path), {input: part}) for part in torch.split(seen, 500)])
                row[kind] = float((found.argmax(1) == labels).float().mean())
        table.add_row(name, *(f"{row[kind]:.2%}" for kind in KINDS))
        rows.append(row)
    Console(width=160).print(table)
    return rows


def fashion(folder: Path, split: str, count: int) -> tuple[Tensor, Tensor]:
    """Images, of mean 0 and deviation 1, and labels."""
    files = (folder / f"{split}-{kind}-ubyte.gz" for kind in ("images-idx3", "labels-idx1"))
    raw, labels = (gzip.decompress(file.read_bytes()) for file in files)
    x = torch.frombuffer(bytearray(raw[16 : 16 + count * 784]), dtype=torch.uint8).view(-1, 1, 28, 28)
    return (x / 255 - 0.286) / 0.353, torch.frombuffer(bytearray(labels[8 : 8 + count]), dtype=torch.uint8).long()


def trained(net: nn.Module, x: Tensor, y: Tensor, epochs: int = 3) -> nn.Module:
    """The net after some epochs of Adam, the learning rate going to 0."""
    optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
    steps = epochs * -(-len(x) // 64)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, steps)
    net.train()
    for _ in range(epochs):
        for some in torch.randperm(len(x)).split(64):  # type: ignore[no-untyped-call]
            found = net(x[some])
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(found if isinstance(found, Tensor) else found.logits, y[some])
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
    return net.eval()


def cpu_time(sessions: Mapping[str, Any], feed: Mapping[str, Mapping[str, Tensor]], repeats: int) -> dict[str, float]:
    """Median milliseconds that one call keeps its thread busy, whatever else the machine does; in turns."""
    feeds = {kind: {name: tensor.numpy() for name, tensor in inputs.items()} for kind, inputs in feed.items()}
    taken: dict[str, list[float]] = {kind: [] for kind in sessions}
    for repeat in range(-max(2, repeats // 10), repeats):
        for kind, one in sessions.items():
            started = time.thread_time()
            one.run(None, feeds[kind])
            if repeat >= 0:
                taken[kind].append(1000 * (time.thread_time() - started))
    return {kind: median(times) for kind, times in taken.items()}


def run(net: nn.Module, x: Tensor) -> Any:
    return net(x)


def products(net: nn.Module) -> int:
    """How many convolutions and linear maps there are."""
    return sum(isinstance(module, (nn.Conv2d, nn.Linear)) for module in net.modules())


def static(path: Path, out: Path, inputs: Mapping[str, Tensor]) -> None:
    """What ``onnxruntime.quantization`` makes of a float file, calibrated with these inputs."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    [(name, x)] = inputs.items()

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.left: Iterator[Tensor] = iter(torch.split(x, 16))

        def get_next(self) -> dict[str, Any] | None:
            batch = next(self.left, None)
            return None if batch is None else {name: batch.numpy()}

    prepared = path.with_suffix(".prepared.onnx")
    quant_pre_process(str(path), str(prepared), skip_symbolic_shape=True)
    kinds = {"activation_type": QuantType.QUInt8, "weight_type": QuantType.QInt8}
    quantize_static(str(prepared), str(out), Reader(), quant_format=QuantFormat.QDQ, per_channel=True, **kinds)


def show(rows: Sequence[Mapping[str, Any]]) -> None:
    table = Table(
        "net", "batch", *(f"{kind} ms" for kind in KINDS), "float / ours", "ours / static", "integer (static)"
    )
    for row in rows:
        ms, integer = row["ms"], row["integer"]
        ratios = f"{ms['float'] / ms['ours']:.2f}", f"{ms['ours'] / ms['quantize_static']:.2f}"
        counts = f"{integer['ours']} ({integer['quantize_static']}) of {row['products']}"
        table.add_row(row["net"], str(row["batch"]), *(f"{ms[kind]:.3f}" for kind in KINDS), *ratios, counts)
    Console(width=160).print(table)


if __name__ == "__main__":
    main()
