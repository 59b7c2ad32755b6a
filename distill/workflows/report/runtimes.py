"""The models of a report in the runtimes of their exports: what is timed, and beside what."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from distill.core.utils.errors import UserError
from distill.export.onnx.graph import to_onnx
from distill.export.onnx.runtime import input_sizes, numpy_feed, session
from distill.export.openvino import FILE as OPENVINO_FILE
from distill.export.openvino import OpenVino, Session
from distill.export.verify import torch_logits
from distill.workflows.report.predictions import Subject
from distill.workflows.report.timing import Call

__all__ = ["calls_of", "files_of"]

_ONNXRUNTIME, _OPENVINO = "onnxruntime", "openvino"


def files_of(
    subjects: Sequence[Subject], sample: Mapping[str, Tensor], folder: Path, notes: list[str]
) -> list[tuple[Subject, str, Path]]:
    """Models as files, by the runtime that opens them: exports, and in the same runtimes teacher and student in float.

    Args:
        subjects: All models.
        sample: One sample.
        folder: For the graphs of those in float.
        notes: Gets what cannot be.
    """
    found = [(one, one.runtime, file) for one in subjects if (file := _file(one)) is not None]
    timed = {one.key for one, *_ in found}
    notes += [f"{one.key} is not timed" for one in subjects if one.role == "exported" and one.key not in timed]
    runtimes = list(dict.fromkeys(runtime for _, runtime, _ in found))
    if not runtimes:
        return found
    for place, one in enumerate(_in_float(subjects)):
        assert one.model is not None
        file = folder / f"{place}.onnx"
        try:
            to_onnx(one.model, file, sample, fixed="input_ids" not in sample)
        except UserError as error:
            notes.append(f"{one.key} is not timed in {' and '.join(runtimes)}: {error.problem}")
            continue
        found += [(one, runtime, file) for runtime in runtimes]
    return found


def _file(subject: Subject) -> Path | None:
    """The file of an export whose runtime is timed."""
    if subject.target is None:
        return None
    if isinstance(subject.target, OpenVino):
        return Path(subject.source) / OPENVINO_FILE
    return Path(subject.source) / subject.target.onnx if subject.target.onnx is not None else None


def _in_float(subjects: Sequence[Subject]) -> Iterator[Subject]:
    """What exports are timed beside: teachers, and the students that they were made of, in float, unless such a file is
    an export itself."""
    plain = {one.of for one in subjects if one.role == "float"}
    exported = {one.of for one in subjects if one.target is not None}
    files = {one.of for one in subjects if one.target is not None and one.target.name == "onnx"}
    for one in subjects:
        mine = one.of if one.role == "float" else one.key if one.key not in plain else None
        if one.model is not None and (one.role == "teacher" or (mine in exported and mine not in files)):
            yield one


def calls_of(subjects: Sequence[Subject], files: Sequence[tuple[Subject, str, Path]]) -> list[Call]:
    """What is timed: in torch the models that compute in float, and all files.

    A rounded student in torch computes floats and rounds them, which is slower than either and nobody's use.
    """
    plain = {one.of for one in subjects if one.role == "float"}
    calls = [
        Call(one.key, "torch", partial(_in_torch, one.model))
        for one in subjects
        if one.model is not None and one.role != "alone" and one.key not in plain
    ]
    openers: dict[str, Callable[[Path, int], Any]] = {
        _ONNXRUNTIME: lambda path, threads: session(path, threads=threads, spins=False),
        _OPENVINO: Session,
    }
    return calls + [Call(one.key, runtime, _opened(openers[runtime], file)) for one, runtime, file in files]


def _in_torch(model: nn.Module, inputs: Mapping[str, Tensor], threads: int) -> Callable[[], object]:
    return partial(torch_logits(model), dict(inputs))


def _opened(opener: Callable[[Path, int], Any], file: Path) -> Callable[[Mapping[str, Tensor], int], Any]:
    """Prepares a file; it is opened once for each number of threads."""
    sessions: dict[int, Any] = {}

    def prepare(inputs: Mapping[str, Tensor], threads: int) -> Callable[[], object]:
        if threads not in sessions:
            sessions[threads] = opener(file, threads)
        run = sessions[threads]
        names = set(input_sizes(run)) if hasattr(run, "get_inputs") else set(inputs)
        feed = numpy_feed({name: tensor for name, tensor in inputs.items() if name in names})
        return partial(run.run, None, feed)

    return prepare
