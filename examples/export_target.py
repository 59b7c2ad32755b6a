"""An export target of one's own."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, export, load, save

from distill import ExportTarget
from distill.export.base import Predict
from distill.export.onnx.graph import Logits

FILE = "program.pt2"


class TorchProgram(ExportTarget):
    """A graph that ``torch.export.load`` opens, without this package and without transformers."""

    name = "torch-program"

    def write(self, student: nn.Module, folder: Path, example: dict[str, Tensor]) -> dict[str, Any]:
        free = tuple({0: Dim.AUTO, 1: Dim.AUTO} for _ in example)  # samples, and tokens of a sample
        with torch.no_grad():
            program = export(Logits(student, example).eval(), tuple(example.values()), dynamic_shapes={"inputs": free})
        save(program, folder / FILE)
        return {}

    def open(self, folder: Path) -> Predict:
        program = load(folder / FILE).module()
        return torch.no_grad()(lambda inputs: program(*inputs.values()))
