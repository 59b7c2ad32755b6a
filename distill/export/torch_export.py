"""The target ``torch-export``: a program that ``torch.export.load`` opens, without this package and transformers."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from distill.compression.own_pass import contained
from distill.core.utils.errors import UserError
from distill.export.base import ExportTarget, Predict
from distill.export.blame import place_of
from distill.export.folder import REPORT
from distill.export.onnx.graph import Logits, silent, traceable
from distill.export.onnx.runtime import UNWRITTEN
from distill.export.script import Lines
from distill.export.verify import torch_logits

__all__ = ["FILE", "TorchExport"]

FILE = "model.pt2"

_ERROR = 1e-3  # max |a - b| / max |a|, where sizes that may not be free are tried


class TorchExport(ExportTarget):
    """``model.pt2``, called with a dictionary of the student's inputs, in float32.

    Number and length of texts are free, and whichever other sizes the student leaves free. Of a quantized student the
    weights are on their grids, as floats.
    """

    name = "torch-export"
    counts_positions = True

    def write(self, student: nn.Module, folder: Path, example: dict[str, Tensor]) -> dict[str, Any]:
        program, shapes = _program(student, example)
        try:
            with silent():
                torch.export.save(program, folder / FILE)
        except Exception as error:  # of an operator that has no form in a file
            raise _cannot("write", error, f"{type(student).__name__}{place_of(error, student)}") from error
        sizes = {
            name: [shapes[name].get(place, size) for place, size in enumerate(tensor.shape)]
            for name, tensor in example.items()
        }
        return {"inputs": sizes}

    def open(self, folder: Path) -> Predict:
        program = torch.export.load(folder / FILE).module()

        @torch.no_grad()
        def predict(inputs: dict[str, Tensor]) -> Tensor:
            floats = {name: t.float() if t.is_floating_point() else t for name, t in inputs.items()}
            try:
                found: Tensor = program(floats)
            except Exception as error:  # of sizes that the program does not take, in a class of its own for each
                raise _cannot("run", error) from error
            return found

        return predict

    def lines(self, student: nn.Module) -> Lines | None:
        return Lines(
            packages=("torch", "transformers"),
            standard=("import json",),
            imports=("import torch",),
            opens=(
                f'model = torch.export.load(folder / "{FILE}").module()',
                f'names = json.loads((folder / "{REPORT}").read_text())["inputs"]',
            ),
            logits="model({name: torch.as_tensor(inputs[name]) for name in names}).detach().numpy()",
        )


class _OfOne(nn.Module):
    """Called with a dictionary."""

    def __init__(self, logits: Logits) -> None:
        super().__init__()
        self.logits = logits

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        return self.logits(*inputs.values())  # type: ignore[no-any-return]


def _program(student: nn.Module, inputs: Mapping[str, Tensor]) -> tuple[ExportedProgram, dict[str, dict[int, str]]]:
    """The program, and the names of the sizes that are free.

    Raises:
        UserError: if ``torch.export`` cannot follow the student.
    """
    model = copy.deepcopy(student).eval().float()
    failed: Exception | None = None
    for fixed in (False,) if "input_ids" in inputs else (False, True):
        logits, example, shapes = traceable(model, inputs, fixed=fixed)
        free = {name: dict.fromkeys(places, Dim.DYNAMIC) for name, places in shapes.items()}
        try:
            with torch.no_grad(), silent(), contained():
                program = torch.export.export(_OfOne(logits).eval(), (example,), dynamic_shapes={"inputs": free})
        except Exception as error:  # what a model does that a graph cannot has many classes
            failed = error
            continue
        if fixed or "input_ids" in inputs or _agrees(program, model, example, shapes):
            return program, shapes
    assert failed is not None
    raise _cannot("follow", failed, f"{type(student).__name__}{place_of(failed, model)}") from failed


@torch.no_grad()
def _agrees(
    program: ExportedProgram, model: nn.Module, example: Mapping[str, Tensor], shapes: Mapping[str, Mapping[int, str]]
) -> bool:
    """Whether the program computes what the model does where its free sizes are twice those of the example."""
    longer = dict(example)
    for name, places in shapes.items():
        for place in places:
            longer[name] = torch.cat([longer[name]] * 2, place)
    try:
        found, expected = program.module()(longer), torch_logits(model)(longer)
    except Exception:
        return False
    return found.shape == expected.shape and bool((found - expected).abs().max() <= _ERROR * expected.abs().max())


def _cannot(do: str, error: Exception, what: str = "the program") -> UserError:
    said = next(iter(str(error).splitlines()), type(error).__name__)[:200]
    problem = f"torch.export cannot {do} {what} ({said}){UNWRITTEN}"
    hint = "export it with --to onnx, or open the run's student in torch, with distill.load"
    return UserError(problem, key="--to", value=TorchExport.name, hint=hint)
