"""The export targets, and the one verification of all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import nn

from distill.core.signals import Batch
from distill.core.utils.errors import UserError, nearest
from distill.core.utils.extras import require
from distill.core.utils.progress import stage
from distill.export.base import ExportTarget
from distill.export.compressed_tensors import CompressedTensors
from distill.export.fit import Unfit
from distill.export.genai import OnnxGenAI
from distill.export.gguf.target import Gguf
from distill.export.hf import HuggingFace
from distill.export.onnx.convert import frozen_layers, without_quantization
from distill.export.onnx.graph import feed
from distill.export.onnx.half import OnnxFp16
from distill.export.onnx.write import Onnx, OnnxInt8
from distill.export.openvino import OpenVino
from distill.export.tensorrt import TensorRT
from distill.export.torch_export import TorchExport
from distill.export.triton import Triton
from distill.export.verify import check_float, check_integer, compare, nothing_to_compare, torch_logits
from distill.tasks import Task

__all__ = ["TARGETS", "check", "check_packages", "find_target", "holding", "write"]

_ONNX: tuple[type[ExportTarget], ...] = (Onnx, OnnxInt8, OnnxFp16, OnnxGenAI, OpenVino, Triton, TensorRT)
_KINDS: tuple[type[ExportTarget], ...] = (HuggingFace, *_ONNX, CompressedTensors, Gguf, TorchExport)

TARGETS: dict[str, type[ExportTarget]] = {target.name: target for target in _KINDS}
"""Name -> target, of those that come with the package. ``distill.cli.export`` has the names too: it loads no torch."""


def find_target(to: str) -> type[ExportTarget]:
    """The target of that name.

    Raises:
        UserError: if there is none, or packages are missing for it.
    """
    if to not in TARGETS:
        raise UserError("no such format", key="--to", value=to, hint=nearest(to, TARGETS))
    check_packages(TARGETS[to])
    return TARGETS[to]


def check_packages(target: type[ExportTarget]) -> None:
    """Refuse a target whose packages are not installed.

    Raises:
        UserError: naming them.
    """
    if target.extra is not None:
        require(target.extra, "--to")


def holding(student: nn.Module) -> list[str]:
    """The names of the targets that can hold a student."""
    return [name for name, target in TARGETS.items() if not list(target().obstacles(student))]


def check(target: ExportTarget, student: nn.Module) -> None:
    """Refuse a student that the target cannot hold, before anything is written.

    Raises:
        UserError: with the steps of its record that are in the way, and the targets that can hold it.
    """
    with _naming_others(student):
        target.check(student)


@contextmanager
def _naming_others(student: nn.Module) -> Iterator[None]:
    try:
        yield
    except Unfit as error:
        raise error.beside([name for name in holding(student) if name != error.value]) from None


def write(
    target: ExportTarget, student: nn.Module, folder: Path, *, task: Task, batches: Callable[[], Iterable[Batch]]
) -> dict[str, Any]:
    """Write ``student`` into ``folder``, open what was written, and compare it with the student on ``batches``.

    Args:
        target: The format.
        student: In eval mode, and not refused by the target.
        folder: An empty folder.
        task: What the student does.
        batches: The validation data, from its beginning at every call.

    Returns:
        What was found, for the report.

    Raises:
        UserError: if what was written does not do what the student does.
    """
    reference = student if target.integers else without_quantization(student)
    example = next(iter(batches()), None)
    if example is None:
        raise nothing_to_compare()
    layers = frozen_layers(student)
    with _naming_others(student):
        report = {"quantized_layers": len(layers), **target.write(reference, folder, feed(example))}
    stage("comparing it with the student")
    found = compare(task, batches(), torch_logits(reference), target.open(folder))
    rounds = (target.integers and bool(layers)) or target.coarse or target.dtype != "float32"
    (check_integer if rounds else check_float)(found)
    return report | {"verified": asdict(found)}
