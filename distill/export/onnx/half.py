"""The target ``onnx-fp16``: weights and computation in half precision, where the runtime has it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn

from distill.export.fit import Obstacle
from distill.export.onnx.convert import frozen_layers
from distill.export.onnx.graph import rewrite_file
from distill.export.onnx.write import MODEL, Onnx

__all__ = ["OnnxFp16"]


class OnnxFp16(Onnx):
    """A graph in float16 whose inputs and logits are float32.

    On a CPU onnxruntime computes most of it in float32 all the same, and converts between: the file is half as large,
    and no faster.
    """

    name = "onnx-fp16"
    coarse = True

    def obstacles(self, student: nn.Module) -> Iterator[Obstacle]:
        if frozen_layers(student):
            yield Obstacle("float16 would round weights that lie on grids of their own", "quantize")

    def write(self, student: nn.Module, folder: Path, example: dict[str, Tensor]) -> dict[str, Any]:
        report = super().write(student, folder, example)
        _halve(folder / MODEL)
        return report


def _halve(path: Path) -> None:
    """Replace a file in float32 by one in float16."""
    import onnx
    from onnxruntime.transformers.float16 import convert_float_to_float16

    model = convert_float_to_float16(
        onnx.load(path), keep_io_types=True, max_finite_val=float(np.finfo(np.float16).max), disable_shape_infer=True
    )
    rewrite_file(model, path)
