#!/usr/bin/env python
"""What an int8 file costs in onnxruntime beside the float one, and beside onnxruntime's own static quantization.

    python scripts/bench_integers.py [--net NAME ...] [--repeats N] [--all-layers]

Random weights, which take the time that trained ones take; the ranges are of the same images for both. One thread,
calls interleaved, medians. ``integer`` is how many of the convolutions and matrix products that have weights are
integer operators in the graph that onnxruntime runs. --all-layers quantizes the first layer and the head too, as
onnxruntime does. Takes about two minutes.
"""

from __future__ import annotations

import argparse
import copy
import logging
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
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
from distill.export.onnx.runtime import integer_matmuls, latency, session

KINDS = ("float", "ours", "quantize_static")


def main(argv: Sequence[str] | None = None) -> list[dict[str, Any]]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--net", action="append", choices=NETS, help="this one; may be given again")
    parser.add_argument("--repeats", type=int, default=200)
    parser.add_argument("--all-layers", action="store_true")
    given = parser.parse_args(argv)
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
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
    input = "pixel_values" if hasattr(net, "config") else "input"
    with tempfile.TemporaryDirectory() as parent:
        paths = {kind: Path(parent) / f"{kind}.onnx" for kind in KINDS}
        to_onnx(net, paths["float"], {input: x[:2]}, fixed=True)
        ours = copy.deepcopy(net)
        include = [""] if all_layers else None
        quantize(ours, torch.split(x, 16), run, activations=ActivationScheme(), include=include)
        to_onnx(with_integers(ours, unsigned=host_isa() == "avx2"), paths["ours"], {input: x[:2]}, fixed=True)
        static(paths["float"], paths["quantize_static"], {input: x})
        integer = {kind: sum(integer_matmuls(path).values()) for kind, path in paths.items()}
        sessions = {kind: session(path) for kind, path in paths.items()}
        rows = []
        for batch in batches:
            feed = {kind: {input: x[:batch]} for kind in sessions}
            times = latency(sessions, feed, repeats if batch == 1 else max(10, repeats // 5))
            rows.append({"net": name, "batch": batch, "products": products(net), "integer": integer, "ms": times})
    return rows


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
