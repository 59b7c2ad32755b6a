"""The ONNX targets: a graph in float32, and one that multiplies integers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from distill.core.utils.errors import UserError
from distill.export.base import ExportTarget, Predict
from distill.export.fit import Obstacle
from distill.export.onnx.convert import frozen_layers, largest_integer, with_integers
from distill.export.onnx.graph import to_onnx
from distill.export.onnx.isa import weight_type
from distill.export.onnx.products import products
from distill.export.onnx.runtime import input_sizes, logits, session
from distill.export.script import Lines
from distill.export.verify import torch_logits

__all__ = ["MODEL", "UNQUANTIZED", "Onnx", "OnnxInt8"]

MODEL = "model.onnx"

UNQUANTIZED = Obstacle(
    "it was not quantized",
    hint="train with the callback QuantizationAwareTraining, run `distill quantize RUN`",
)


class Onnx(ExportTarget):
    """A graph for onnxruntime, in float32."""

    name = "onnx"
    extra = "export"
    runtime: ClassVar[str] = "onnxruntime"
    onnx: ClassVar[str | None] = MODEL
    counts_positions = True

    def write(self, student: nn.Module, folder: Path, example: dict[str, Tensor]) -> dict[str, Any]:
        return {"inputs": _write(student, folder / MODEL, example, torch_logits(student))}

    def open(self, folder: Path) -> Predict:
        return partial(_logits, session(folder / MODEL))

    def lines(self, student: nn.Module) -> Lines | None:
        return Lines(
            packages=("onnxruntime", "transformers"),
            imports=("import onnxruntime",),
            opens=(f'model = onnxruntime.InferenceSession(folder / "{self.onnx}")',),
            logits='model.run(["logits"], {one.name: inputs[one.name] for one in model.get_inputs()})[0]',
        )


class OnnxInt8(Onnx):
    """A graph for onnxruntime that multiplies the integers of a quantized student."""

    name = "onnx-int8"
    integers = True
    for_isas = True

    def obstacles(self, student: nn.Module) -> Iterator[Obstacle]:
        if not frozen_layers(student):
            yield UNQUANTIZED

    def write(self, student: nn.Module, folder: Path, example: dict[str, Tensor]) -> dict[str, Any]:
        layers = frozen_layers(student)
        largest = largest_integer(layers)
        weights = weight_type(self.isa, largest)
        integers = with_integers(student, unsigned=weights == "uint8")
        return {
            "inputs": _write(integers, folder / MODEL, example, torch_logits(student), suits=_pads_are_known),
            "isa": self.isa,
            "weights": weights,
            "largest_weight": largest,
            **products(folder / MODEL, student),
        }


def _write(
    model: nn.Module,
    path: Path,
    inputs: Mapping[str, Tensor],
    trained: Predict,
    suits: Callable[[Path], bool] = lambda path: True,
) -> dict[str, list[int | str]]:
    """Write the file and give the sizes of its inputs.

    They are free where ``trained`` takes other ones, the file agrees with it there, and ``suits`` as it is.
    """
    run: Any = None
    if "input_ids" in inputs:
        to_onnx(model, path, inputs)
        run = session(path)
    else:
        with suppress(UserError):  # the exporter may not follow it at any size
            to_onnx(model, path, inputs)
            run = session(path)
        if run is None or not suits(path) or not _agrees_at_other_sizes(run, inputs, trained):
            to_onnx(model, path, inputs, fixed=True)
            run = session(path)
    return input_sizes(run)


def _pads_are_known(path: Path) -> bool:
    """Whether no convolution reads zeros of which the input's size says how many: onnxruntime multiplies floats there.

    With one size they are numbers, which the exporter makes a part of the convolution.
    """
    import onnx

    graph = onnx.load(path, load_external_data=False).graph
    makers = {name: node for node in graph.node for name in node.output}
    read = (makers.get(node.input[0]) for node in graph.node if node.op_type == "Conv")
    counts = (makers.get(node.input[1]) for node in read if node is not None and node.op_type == "Pad")
    return all(node is None or node.op_type == "Constant" for node in counts)


def _logits(run: Any, inputs: dict[str, Tensor]) -> Tensor:
    """What the file gives; inputs of sizes that it does not take are refused."""
    for name, sizes in input_sizes(run).items():
        shape = list(inputs[name].shape)
        if any(isinstance(size, int) and size != found for size, found in zip(sizes, shape, strict=True)):
            raise UserError(
                f"as a graph the student reads {name} of {_sizes(sizes)} only, the first batch's, and the validation "
                f"data hold {_sizes(shape)} too; nothing was written",
                key="--to",
                hint="give all samples one size, or open the run's student in torch, with distill.load",
            )
    return logits(run, inputs)


def _sizes(of: Iterable[int | str]) -> str:
    return f"[{', '.join(map(str, of))}]"


def _agrees_at_other_sizes(run: Any, inputs: Mapping[str, Tensor], trained: Predict) -> bool:
    """Whether the file computes what the model does where all its free sizes are twice those of the example."""
    longer = {name: tensor[:2] for name, tensor in inputs.items()}
    for name, sizes in input_sizes(run).items():
        for dimension, size in enumerate(sizes[1:], 1):
            if isinstance(size, str):
                longer[name] = torch.cat([longer[name]] * 2, dimension)
    try:
        found = logits(run, longer)
    except Exception:  # whatever the runtime raises
        return False
    expected = trained(longer)
    return found.shape == expected.shape and bool((found - expected).norm() <= 0.02 * expected.norm())
