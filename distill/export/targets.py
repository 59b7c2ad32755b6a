"""What ``distill export --to`` can write: each format written, read back and compared."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from distill.core.record import steps_of
from distill.core.signals import Batch
from distill.core.utils.errors import UserError, nearest
from distill.core.utils.extras import require
from distill.core.utils.quiet import quiet_transformers
from distill.export.hf import check_structure, to_huggingface
from distill.export.onnx.convert import (
    frozen_layers,
    largest_integer,
    multiplies_integers,
    with_integers,
    without_quantization,
)
from distill.export.onnx.graph import feed, to_onnx
from distill.export.onnx.isa import weight_type
from distill.export.onnx.runtime import input_sizes, integer_matmuls, logits, session
from distill.export.verify import Predict, check_float, check_integer, compare, nothing_to_compare, torch_logits
from distill.tasks import Task

__all__ = ["FORMATS", "MODEL", "check_name", "check_student", "write"]

MODEL = "model.onnx"
FORMATS = ("hf", "onnx", "onnx-int8")


def check_name(to: str) -> None:
    """Refuse a format that there is not, or that packages are missing for.

    Raises:
        UserError: saying so.
    """
    if to not in FORMATS:
        raise UserError("no such format", key="--to", value=to, hint=nearest(to, FORMATS))
    if to != "hf":
        require("export", "--to")


def check_student(to: str, student: nn.Module) -> None:
    """Refuse a student that the format cannot hold.

    Args:
        to: One of :data:`FORMATS`.
        student: As :func:`distill.models.artifact.load` opens it.

    Raises:
        UserError: saying why.
    """
    if to == "hf":
        check_structure(student, steps_of(student))
    if to == "onnx-int8" and not frozen_layers(student):
        raise UserError(
            "this student was not quantized",
            key="--to",
            value=to,
            hint="train with the callback QuantizationAwareTraining, run `distill quantize RUN`, or export to onnx",
        )


def write(
    to: str, student: nn.Module, folder: Path, *, task: Task, batches: Callable[[], Iterable[Batch]], isa: str
) -> dict[str, Any]:
    """Write ``student`` into ``folder``, and compare what was written with it on ``batches``.

    Args:
        to: One of :data:`FORMATS`.
        student: In eval mode.
        folder: An empty folder.
        task: What the student does.
        batches: The validation data, from its beginning at every call.
        isa: What integers are stored for (:data:`~distill.export.onnx.isa.ISAS`).

    Returns:
        What was found, for the report.

    Raises:
        UserError: if what was written does not do what the student does.
    """
    if to == "onnx-int8":
        return _write_integers(student, folder, task, batches, isa)
    plain = without_quantization(student)
    report: dict[str, Any] = {"quantized_layers": len(frozen_layers(student))}
    if to == "hf":
        predict = _write_hf(plain, folder)
    else:
        predict, report["inputs"] = _write_onnx(plain, folder, batches, torch_logits(plain))
    found = compare(task, batches(), torch_logits(plain), predict)
    check_float(found)
    return report | {"verified": asdict(found)}


def _write_hf(plain: nn.Module, folder: Path) -> Predict:
    assert isinstance(plain, PreTrainedModel)
    to_huggingface(plain, folder)
    with quiet_transformers():
        opened: nn.Module = type(plain).from_pretrained(folder)
    return torch_logits(opened.eval())


def _write_onnx(
    model: nn.Module, folder: Path, batches: Callable[[], Iterable[Batch]], trained: Predict
) -> tuple[Predict, dict[str, list[int | str]]]:
    """The file as a function, and the sizes of its inputs.

    They are free where ``trained`` takes other ones and the file agrees with it there.
    """
    example = next(iter(batches()), None)
    if example is None:
        raise nothing_to_compare()
    path, inputs = folder / MODEL, feed(example)
    run: Any = None
    if "input_ids" in inputs:
        to_onnx(model, path, inputs)
        run = session(path)
    else:
        with suppress(UserError):  # the exporter may not follow it at any size
            to_onnx(model, path, inputs)
            run = session(path)
        if run is None or not _agrees_at_other_sizes(run, inputs, trained):
            to_onnx(model, path, inputs, fixed=True)
            run = session(path)
    return partial(_logits, run), input_sizes(run)


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


def _write_integers(
    student: nn.Module, folder: Path, task: Task, batches: Callable[[], Iterable[Batch]], isa: str
) -> dict[str, Any]:
    layers = frozen_layers(student)
    largest = largest_integer(layers)
    weights = weight_type(isa, largest)
    integers = with_integers(student, unsigned=weights == "uint8")
    predict, inputs = _write_onnx(integers, folder, batches, torch_logits(student))
    found = compare(task, batches(), torch_logits(student), predict)
    check_integer(found)
    return {
        "verified": asdict(found),
        "inputs": inputs,
        "isa": isa,
        "weights": weights,
        "largest_weight": largest,
        "quantized_layers": len(layers),
        "integer_products": sum(map(multiplies_integers, layers.values())),
        "integer_matmuls": integer_matmuls(folder / MODEL),
    }
