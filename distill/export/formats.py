"""What ``distill export --to`` can write: each format written, read back and compared."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from distill.artifact import quiet, steps_of
from distill.errors import UserError, nearest
from distill.export.convert import (
    frozen_layers,
    largest_integer,
    multiplies_integers,
    with_integers,
    without_quantization,
)
from distill.export.graph import feed, to_onnx
from distill.export.huggingface import check_structure, to_huggingface
from distill.export.isa import weight_type
from distill.export.runtime import integer_matmuls, logits, require, session
from distill.export.verify import Predict, check_float, check_integer, compare, nothing_to_compare, torch_logits
from distill.signals import Batch
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
        raise UserError("no such format", key="--to", value=to, mend=nearest(to, FORMATS))
    if to != "hf":
        require()


def check_student(to: str, student: nn.Module) -> None:
    """Refuse a student that the format cannot hold.

    Args:
        to: One of :data:`FORMATS`.
        student: As :func:`distill.artifact.load` opens it.

    Raises:
        UserError: saying why.
    """
    if to == "hf":
        check_structure(student, steps_of(student))
    if to == "onnx-int8" and not frozen_layers(student):
        raise UserError(
            "this student was not quantised",
            key="--to",
            value=to,
            mend="train with the callback QuantizationAwareTraining, run `distill quantize RUN`, or export to onnx",
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
        isa: What integers are stored for (:data:`~distill.export.isa.ISAS`).

    Returns:
        What was found, for the report.

    Raises:
        UserError: if what was written does not do what the student does.
    """
    if to == "onnx-int8":
        return _write_integers(student, folder, task, batches, isa)
    plain = without_quantization(student)
    predict = _write_hf(plain, folder) if to == "hf" else _write_onnx(plain, folder, batches)
    found = compare(task, batches(), torch_logits(plain), predict)
    check_float(found)
    return {"verified": asdict(found), "quantized_layers": len(frozen_layers(student))}


def _write_hf(plain: nn.Module, folder: Path) -> Predict:
    assert isinstance(plain, PreTrainedModel)
    to_huggingface(plain, folder)
    with quiet():
        opened: nn.Module = type(plain).from_pretrained(folder)
    return torch_logits(opened.eval())


def _write_onnx(model: nn.Module, folder: Path, batches: Callable[[], Iterable[Batch]]) -> Predict:
    example = next(iter(batches()), None)
    if example is None:
        raise nothing_to_compare()
    to_onnx(model, folder / MODEL, feed(example))
    run = session(folder / MODEL)
    return lambda inputs: logits(run, inputs)


def _write_integers(
    student: nn.Module, folder: Path, task: Task, batches: Callable[[], Iterable[Batch]], isa: str
) -> dict[str, Any]:
    layers = frozen_layers(student)
    largest = largest_integer(layers)
    weights = weight_type(isa, largest)
    predict = _write_onnx(with_integers(student, unsigned=weights == "uint8"), folder, batches)
    found = compare(task, batches(), torch_logits(student), predict)
    check_integer(found)
    return {
        "verified": asdict(found),
        "isa": isa,
        "weights": weights,
        "largest_weight": largest,
        "quantized_layers": len(layers),
        "integer_products": sum(map(multiplies_integers, layers.values())),
        "integer_matmuls": integer_matmuls(folder / MODEL),
    }
