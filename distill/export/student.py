"""A student written in a format, verified, measured, and described: what ``distill export`` does to that of a run."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from distill.core.document_masking import still
from distill.core.signals import Batch
from distill.core.steadiness import why_unsteady
from distill.core.task import Task, TextTask, TokenTask
from distill.core.utils.console import wide
from distill.core.utils.errors import UserError
from distill.core.utils.progress import stage
from distill.core.utils.replacing import check_output
from distill.core.utils.turns import timing
from distill.core.verdict import UNSTEADY, slower_integers
from distill.export.base import ExportTarget
from distill.export.beside import write_beside
from distill.export.folder import REPORT, replacing_export, write_checksums
from distill.export.onnx.convert import without_quantization
from distill.export.onnx.graph import Logits, feed, to_onnx
from distill.export.onnx.isa import check_isa, host_isa
from distill.export.onnx.padding import said
from distill.export.onnx.runtime import latency, session
from distill.export.onnx.write import MODEL
from distill.export.script import Reading, write_script
from distill.export.summary import BATCH, MANY, STUDENT, TEACHER, show, sizes
from distill.export.targets import check, check_packages, find_target, write
from distill.export.verify import torch_logits
from distill.models.compatibility import positions_of
from distill.models.unfinished import refuse_unfinished
from distill.tasks.loaders import batches_of, task_of

__all__ = ["DTYPES", "LENGTH", "export", "for_isa", "limited", "one_sample", "write_export"]

DTYPES = ("float32", "bfloat16", "float16")
"""What weights can be kept in."""

LENGTH = 128
"""Tokens of the text whose latency is measured, or as many as the models read."""

_REPEATS = 100
_SECONDS, _FEWEST = 2.0, 3  # that the larger batch may take, and how often it is then called at least


def export(
    student: nn.Module,
    to: str | type[ExportTarget],
    output: str | Path,
    data: Any,
    *,
    task: str | Task | None = None,
    teacher: nn.Module | None = None,
    tokenizer: Any = None,
    isa: str | None = None,
    samples: int | None = None,
    dtype: str | None = None,
) -> dict[str, Any]:
    """Write ``student`` as ``to``, verify it on ``data``, measure it, and print a table: ``distill.export``.

    It does what ``distill export`` does to the student of a run. What was written is opened in the runtime that it is
    for and compared with the student; where it does something else there is no folder.

    Args:
        student: Finished: what :func:`distill.finish` returned, :func:`distill.load` opened, or
            :func:`distill.quantize` rounded. It is left in eval mode, and otherwise as it is.
        to: ``hf``, a folder for ``AutoModel.from_pretrained``; ``onnx``, in float32; ``onnx-int8``, a quantized
            student with its integers; ``onnx-fp16``, in half precision; ``onnx-genai``, a language model for
            onnxruntime-genai; ``compressed-tensors``, integers for vLLM; ``gguf``, a file for llama.cpp; ``openvino``;
            ``torch-export``; ``triton``; ``tensorrt``; or a class of your own
            (:class:`~distill.export.base.ExportTarget`).
        output: The folder to write. An earlier export there is replaced; anything else is left, and refused.
        data: What it is verified on: a ``DataLoader``, a list of batches, or a data module, whose validation data is
            read.
        task: How the student reads a batch, and how it is judged: a name or a task; the data's own if not given, and
            :class:`~distill.tasks.Plain`, to which a loader yields ``(x, labels)``, where it has none.
        teacher: Beside whose latency and size, in float, those of the export are given.
        tokenizer: Saved beside the model; the data's own if not given.
        isa: What integers are stored for: ``avx2``, ``vnni`` or ``arm``; this machine if not given.
        samples: How many samples it is verified on; all if not given.
        dtype: What ``hf`` keeps weights in: ``float32``, ``bfloat16`` or ``float16``.

    Returns:
        The report, which ``export.json`` in the folder holds too.

    Raises:
        UserError: if the student cannot be written so, or what was written does not do what the student does.
    """
    if samples is not None and samples < 1:
        raise UserError("must be at least 1", key="samples", value=samples, hint="leave it out to verify on all")
    _refuse_pairs(student)
    refuse_unfinished(student)
    judge = task_of(data, task)
    batches = batches_of(data, judge, "validate")
    with _named_as_arguments():
        target = for_isa(find_target(to) if isinstance(to, str) else _own(to), isa, str(to), dtype)
        place = check_output(output)
        assert place is not None
        check(target, student.eval())
        return write_export(
            target,
            student,
            place,
            task=judge,
            batches=lambda: limited(batches(), samples),
            teacher=None if teacher is None else teacher.eval(),
            tokenizer=(known := tokenizer or getattr(data, "tokenizer", None)),
            reading=None if known is None or not isinstance(judge, TextTask) else _reading(judge, student),
        )


def _reading(task: TextTask, student: nn.Module) -> Reading:
    return Reading(task, positions_of(student))


@contextmanager
def _named_as_arguments() -> Iterator[None]:
    """Have errors name arguments, where the command has options."""
    try:
        yield
    except UserError as error:
        key = error.key.removeprefix("--")
        raise UserError(error.problem, key=key, value=error.value, hint=error.hint) from error


def _own(kind: type[ExportTarget]) -> type[ExportTarget]:
    check_packages(kind)
    return kind


def _refuse_pairs(student: nn.Module) -> None:
    """Refuse what is trained in place of what is exported."""
    inner = getattr(student, "student", None)
    if isinstance(inner, nn.Module):
        hint = "give its .student, once distill.finish(trainer) has finished it"
        raise UserError("is what trains a student", key="student", value=type(student).__name__, hint=hint)
    devices = {tensor.device.type for tensor in (*student.parameters(), *student.buffers())} - {"cpu"}
    if devices:
        problem = f"is on {' and '.join(sorted(devices))}, and exports are written and verified on the CPU"
        raise UserError(problem, key="student", value=type(student).__name__, hint="give student.cpu()")


def for_isa(kind: type[ExportTarget], isa: str | None, to: str, dtype: str | None = None) -> ExportTarget:
    """The target of this kind, called ``to``, for an instruction set, with its weights in ``dtype``.

    Raises:
        UserError: if it stores no integers, or none of 16 bits.
    """
    if isa is not None and check_isa(isa) and not kind.for_isas:
        problem = f"{to} stores no integers" if not kind.integers else f"{to} is the same for every instruction set"
        hint = "leave it out, or export --to onnx-int8"
        raise UserError(problem, key="--isa", value=isa, hint=hint)
    target = kind(isa or host_isa())
    if dtype is not None:
        if dtype not in DTYPES:
            problem = f"must be one of {', '.join(DTYPES)}"
            raise UserError(problem, key="--dtype", value=dtype, hint="choose one of them")
        if not kind.halves:
            problem, hint = f"{to} has a precision of its own", "leave it out, or export --to hf"
            raise UserError(problem, key="--dtype", value=dtype, hint=hint)
        target.dtype = dtype
    return target


def limited(batches: Iterable[Batch], samples: int | None) -> Iterator[Batch]:
    """The batches that hold the first ``samples`` samples, with their ids; all of them if not given."""
    left = samples
    for batch in batches:
        yield batch if left is None or batch.size <= left else batch.rows(list(range(left)))
        if left is not None:
            left -= batch.size
            if left <= 0:
                return


def write_export(
    target: ExportTarget,
    student: nn.Module,
    place: Path,
    *,
    task: Task,
    batches: Callable[[], Iterable[Batch]],
    teacher: nn.Module | None = None,
    tokenizer: Any = None,
    begun: dict[str, Any] | None = None,
    verdict: Sequence[str] = (),
    reading: Reading | None = None,
    timed: bool = True,
    beside: Callable[[dict[str, Any], Path], None] = lambda report, folder: None,
) -> dict[str, Any]:
    """Write, verify and measure ``student``, and print the table.

    Args:
        target: The format.
        student: In eval mode, and not refused by the target.
        place: The folder.
        task: What the student does.
        batches: The validation data, from its beginning at every call.
        teacher: See :func:`export`.
        tokenizer: See :func:`export`.
        begun: What the report begins with besides.
        verdict: What is to be said of the student.
        reading: How texts are read; by their arrays if not given.
        timed: Whether an ONNX file is timed beside the teacher, whose size is told then too.
        beside: Writes further files; called with the report and the new folder.
    """
    target.tokenizer = tokenizer
    verdict = [*verdict, *steady(student, task, next(iter(batches()), None))]
    console = wide()
    stage(f"writing {target.name}", console)
    with replacing_export(place) as fresh, console.status(f"writing {target.name}"):
        report: dict[str, Any] = {"to": target.name, **(begun or {})}
        report |= write(target, student, fresh, task=task, batches=batches)
        report |= {**sizes(fresh), "verdict": [*verdict, *report.pop("warnings", ())]}
        first = next(iter(islice(batches(), 1))).first(1)
        inputs = feed(first)
        if "attention_mask" in inputs:
            pads = Logits(without_quantization(student), inputs, counts=target.counts_positions)
            report["padding"] = pads.sides(inputs)
            report["verdict"] += said(report["padding"])
        if target.onnx is not None and timed:
            stage("timing it", console)
            report |= measured(student, teacher, fresh / target.onnx, first, integers=target.integers)
            report["verdict"] += slower_integers({1: report["latency_ms"], BATCH: report.get(MANY)}, STUDENT)
        write_beside(fresh, tokenizer, student, report, pads=target.counts_positions)
        write_script(fresh, target.lines(student), reading, inputs)
        beside(report, fresh)
        (fresh / REPORT).write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
        write_checksums(fresh)
    report["folder"] = str(place)
    show(report)
    return report


def steady(student: nn.Module, task: Task, batch: Batch | None) -> list[str]:
    """What is to be said of a student that mixes its batch; of tokens, whose logits are many, nothing is asked.

    Rounded inputs may have one range a batch, so it is the student in float that is asked.

    Raises:
        UserError: of one whose answers are random, which no file gives again.
    """
    if batch is None or isinstance(task, TokenTask):
        return []
    model, why = without_quantization(student), None
    with suppress(Exception), still(model):  # what fails here is told of where it is written or compared
        why = why_unsteady(lambda some: torch_logits(model)(feed(some)), batch)
    if why == "random":
        hint = "have it draw random numbers in training mode alone: F.dropout(x, p, training=self.training)"
        raise UserError(f"the student {UNSTEADY[why]}, which no file could repeat", key="--to", hint=hint)
    return [] if why is None else [f"the student {UNSTEADY[why]}"]


# ---------------------------------------------------------------------- latency


def measured(
    student: nn.Module, teacher: nn.Module | None, path: Path, sample: Batch, *, integers: bool
) -> dict[str, Any]:
    """Latency of the export beside the float teacher and, of integers, beside the student in float.

    The first of them that there is, is the reference for the size too. Integers are timed in a larger batch too, if
    that takes no more than seconds.
    """
    references = {} if teacher is None else {TEACHER: teacher}
    if integers:
        references[STUDENT] = without_quantization(student)
    known = [positions_of(model) for model in (student, *references.values())]
    length = min([LENGTH, *(positions for positions in known if positions is not None)])
    inputs = one_sample(sample, length)
    found: dict[str, Any] = {"length": length} if "input_ids" in inputs else {}
    sessions = {"export": session(path)}
    with tempfile.TemporaryDirectory() as parent:
        for name, model in references.items():
            folder = Path(parent) / name
            folder.mkdir()
            to_onnx(model, folder / MODEL, inputs, fixed="input_ids" not in inputs)  # which is all it is run with
            sessions[name] = session(folder / MODEL)
            found.setdefault("reference", {"name": name, **sizes(folder)})
        with timing():
            found["latency_ms"] = latency(sessions, dict.fromkeys(sessions, inputs), _REPEATS)
        if integers:
            pair = {name: sessions[name] for name in ("export", STUDENT)}
            expected = BATCH * sum(found["latency_ms"][name] for name in pair)
            repeats = min(_REPEATS, int(_SECONDS * 1000 / max(expected, 1e-3)))
            many = {name: tensor.repeat(BATCH, *[1] * (tensor.dim() - 1)) for name, tensor in inputs.items()}
            if repeats >= _FEWEST:
                with timing():
                    found[MANY] = latency(pair, dict.fromkeys(pair, many), repeats)
    return found


def one_sample(batch: Batch, length: int) -> dict[str, Tensor]:
    """One sample; of text, ``length`` tokens without padding."""
    inputs = feed(batch)
    if "input_ids" not in inputs:
        return {name: tensor[:1] for name, tensor in inputs.items()}
    inputs["attention_mask"] = torch.ones_like(inputs["attention_mask"])
    return {name: tensor[:1].repeat(1, length)[:, :length] for name, tensor in inputs.items()}
