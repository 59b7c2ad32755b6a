"""``distill export``: a run's student in a format that others run, verified before it is there."""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.utilities.model_helpers import is_overridden
from torch import Tensor, nn
from transformers import PreTrainedModel

from distill.config.class_paths import only_allowed_imports
from distill.core.signals import Batch
from distill.core.utils.console import wide
from distill.core.utils.errors import UserError
from distill.core.utils.progress import spoken
from distill.core.utils.quiet import quiet_transformers
from distill.core.utils.replacing import check_output
from distill.core.verdict import Verdict
from distill.data.task_file import task_file
from distill.export.base import ExportTarget
from distill.export.folder import REPORT, replacing_export
from distill.export.onnx.convert import without_quantization
from distill.export.onnx.graph import Logits, feed, to_onnx
from distill.export.onnx.isa import check_isa, host_isa
from distill.export.onnx.padding import said
from distill.export.onnx.runtime import latency, session
from distill.export.onnx.write import MODEL
from distill.export.summary import STUDENT, TEACHER, show, sizes, slower
from distill.export.targets import check_packages, find_target, write
from distill.models.compatibility import positions_of
from distill.run.boundary import refuse_inside
from distill.run.listing import read_json
from distill.run.loggers.make import check_installed, keep_export
from distill.workflows.card import CARD, card
from distill.workflows.evaluate import reopen
from distill.workflows.job.build import Job
from distill.workflows.job.explain import named_class

__all__ = ["LENGTH", "export"]

LENGTH = 128
"""Tokens of the text whose latency is measured, or as many as the models read."""

_REPEATS = 100


def export(
    folder: str | Path,
    to: str,
    output: str | Path | None = None,
    isa: str | None = None,
    *,
    samples: int | None = None,
    overrides: Sequence[tuple[str, str]] = (),
    allow: Sequence[str] = (),
) -> dict[str, Any]:
    """Write a run's student as ``to``, verify it on the run's validation data, measure it, and print a table.

    Args:
        folder: The run.
        to: ``hf``, a folder for ``AutoModel.from_pretrained``; ``onnx``, in float32; ``onnx-int8``, a quantized
            student with its integers; or the dotted path of a target of one's own
            (:class:`~distill.export.base.ExportTarget`).
        output: The folder to write; ``<run>/exports/<to>`` if not given. An earlier export there is replaced.
        isa: What integers are stored for: ``avx2``, ``vnni`` or ``arm``; this machine if not given.
        samples: How many validation samples (of a packed language model: blocks) it is verified on; all that the
            validation reads if not given. The first batches of a validation hold samples of any length.
        overrides: Keys and YAML texts that replace parts of the run's configuration.
        allow: Packages whose classes it may name, besides our own.

    Returns:
        The report, which ``export.json`` in the folder holds too.

    Raises:
        UserError: if the student cannot be written so, or what was written does not do what the student does; then
            there is no folder.
    """
    target = _target(to, isa, allow)
    if samples is not None and samples < 1:
        raise UserError("must be at least 1", key="--samples", value=samples, hint="leave it out to verify on all")
    given = check_output(output)
    run, job = reopen(folder, "validate", overrides=overrides, allow=allow, alone=True, heeds=("logging",))
    refuse_inside(run.folder, given)
    if given is None:
        run.refuse_links()
    if given is None and job.logging.wandb is not None and "exports" in job.logging.wandb.artifacts:
        check_installed(job.logging)
    student = job.module.student.eval()
    target.check(student)
    place = given or run.folder / "exports" / target.name
    console = wide()
    if not console.is_terminal:
        print(f"writing {target.name}", flush=True)
    with replacing_export(place) as fresh, console.status(f"writing {target.name}"):
        report: dict[str, Any] = {"to": target.name, "run": f"{run.name} {run.id}"}
        report |= write(target, student, fresh, task=job.module.task, batches=lambda: _batches(job, samples))
        report |= {**sizes(fresh), "verdict": Verdict.of_file(read_json(run.result_file)[0]).bad}
        inputs = feed(next(iter(_batches(job, 1))))
        if "attention_mask" in inputs:
            pads = Logits(without_quantization(student), inputs, counts=target.onnx is not None)
            report["padding"] = pads.sides(inputs)
            report["verdict"] += said(report["padding"])
        if target.onnx is not None:
            report |= _measure(job, student, fresh / target.onnx, integers=target.integers)
            report["verdict"] += slower(report["latency_ms"])
        _write_beside(fresh, job, student, report, pads=target.onnx is not None)
        described = card(run.config, read_json(run.result_file)[0], student, job.data, report)
        (fresh / CARD).write_text(described, encoding="utf-8")
    if given is None:  # what lies elsewhere is the user's
        keep_export(job.logging, run, place)
    report["folder"] = str(place)
    show(report)
    return report


def _target(to: str, isa: str | None, allow: Sequence[str]) -> ExportTarget:
    """The target called ``to``, or the class that it is the path of, for an instruction set."""
    kind: type[ExportTarget]
    if "." in to:
        with only_allowed_imports(allow):
            kind = named_class(ExportTarget, to, "--to", allow)
        if not isinstance(getattr(kind, "name", None), str):
            hint = f'write name = "my-format" in {kind.__name__}: it names the folder'
            raise UserError("a target needs a name", key="--to", value=to, hint=hint)
        check_packages(kind)
    else:
        kind = find_target(to)
    if isa is not None and check_isa(isa) and not kind.integers:
        problem, hint = f"{to} stores no integers", "leave it out, or export --to onnx-int8"
        raise UserError(problem, key="--isa", value=isa, hint=hint)
    return kind(isa or host_isa())


def _batches(job: Job, samples: int | None) -> Iterator[Batch]:
    if not is_overridden("val_dataloader", job.data):
        problem = "there is no validation data to verify the export with"
        raise UserError(problem, key="data", hint="name the split in data.splits")
    loader: Any = job.data.val_dataloader()
    share = job.arguments.get("limit_val_batches")  # what the validation reads
    with suppress(TypeError):  # of a loader that does not know how many batches it has
        count = len(loader) if share is None else share if isinstance(share, int) else int(len(loader) * share)
        loader = spoken(islice(loader, count), "verified", min(count, len(loader)), wide())
    left = math.inf if samples is None else samples
    for raw in loader:
        batch = job.module.task.batch(raw)
        yield batch if batch.size <= left else batch.first(int(left))
        left -= batch.size
        if left <= 0:
            return


def _write_beside(folder: Path, job: Job, student: nn.Module, report: dict[str, Any], *, pads: bool) -> None:
    """Put the tokenizer, the configuration and the report beside the model.

    Args:
        folder: Of the export.
        job: The run's.
        student: The student.
        report: Of the export.
        pads: Whether the tokenizer's side of padding must be one that is right; transformers counts positions itself.
    """
    tokenizer = getattr(job.data, "tokenizer", None)
    with quiet_transformers():
        if tokenizer is not None:
            sides = report.get("padding") if pads else None
            if sides and tokenizer.padding_side not in sides:
                tokenizer.padding_side = sides[0]
            tokenizer.save_pretrained(folder)
        if isinstance(student, PreTrainedModel) and not (folder / "config.json").exists():
            student.config.save_pretrained(folder)
    for name, text in task_file(job.data).items():
        (folder / name).write_text(text, encoding="utf-8")
    (folder / REPORT).write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


# ---------------------------------------------------------------------- latency


def _measure(job: Job, student: nn.Module, path: Path, *, integers: bool) -> dict[str, Any]:
    """Latency of the export beside the float teacher and, of integers, beside the student in float.

    The first of them that there is, is the reference for the size too.
    """
    references: dict[str, nn.Module] = {}
    if job.module.teacher is not None and job.module.teacher.models:
        references[TEACHER] = job.module.teacher.models[0]
    if integers:
        references[STUDENT] = without_quantization(student)
    known = [positions_of(model) for model in (student, *references.values())]
    length = min([LENGTH, *(positions for positions in known if positions is not None)])
    inputs = _one(next(iter(_batches(job, 1))), length)
    found: dict[str, Any] = {"length": length} if "input_ids" in inputs else {}
    sessions = {"export": session(path)}
    with tempfile.TemporaryDirectory() as parent:
        for name, model in references.items():
            folder = Path(parent) / name
            folder.mkdir()
            to_onnx(model, folder / MODEL, inputs, fixed="input_ids" not in inputs)  # which is all it is run with
            sessions[name] = session(folder / MODEL)
            found.setdefault("reference", {"name": name, **sizes(folder)})
        found["latency_ms"] = latency(sessions, dict.fromkeys(sessions, inputs), _REPEATS)
    return found


def _one(batch: Batch, length: int) -> dict[str, Tensor]:
    """One sample; of text, ``length`` tokens without padding."""
    inputs = feed(batch)
    if "input_ids" not in inputs:
        return {name: tensor[:1] for name, tensor in inputs.items()}
    inputs["attention_mask"] = torch.ones_like(inputs["attention_mask"])
    return {name: tensor[:1].repeat(1, length)[:, :length] for name, tensor in inputs.items()}
