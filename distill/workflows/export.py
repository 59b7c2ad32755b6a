"""``distill export``: a run's student in a format that others run, verified before it is there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any

from pytorch_lightning.utilities.model_helpers import is_overridden

from distill.config.class_paths import only_allowed_imports
from distill.core.signals import Batch
from distill.core.utils.console import wide
from distill.core.utils.errors import UserError
from distill.core.utils.progress import spoken
from distill.core.utils.replacing import check_output
from distill.core.verdict import Verdict
from distill.data.task_file import TaskFile, task_file
from distill.export.base import ExportTarget
from distill.export.student import for_isa, limited, write_export
from distill.export.targets import check, check_packages, find_target
from distill.run.boundary import refuse_inside
from distill.run.listing import read_json
from distill.run.loggers.make import check_installed, keep_export
from distill.workflows.card import CARD, card
from distill.workflows.evaluate import reopen
from distill.workflows.how_to_load import reading_of
from distill.workflows.job.build import Job
from distill.workflows.job.explain import named_class

__all__ = ["export"]


def export(
    folder: str | Path,
    to: str,
    output: str | Path | None = None,
    isa: str | None = None,
    *,
    samples: int | None = None,
    dtype: str | None = None,
    timed: bool = True,
    overrides: Sequence[tuple[str, str]] = (),
    allow: Sequence[str] = (),
) -> dict[str, Any]:
    """Write a run's student as ``to``, verify it on the run's validation data, measure it, and print a table.

    Args:
        folder: The run.
        to: ``hf``, a folder for ``AutoModel.from_pretrained``; ``onnx``, in float32; ``onnx-int8``, a quantized
            student with its integers; ``onnx-fp16``, in half precision; ``onnx-genai``, a language model for
            onnxruntime-genai; ``compressed-tensors``, integers for vLLM; ``gguf``, a file for llama.cpp; ``openvino``;
            ``torch-export``; ``triton``; ``tensorrt``; or the dotted path of a target of one's own
            (:class:`~distill.export.base.ExportTarget`).
        output: The folder to write; ``<run>/exports/<to>`` if not given. An earlier export there is replaced.
        isa: What integers are stored for: ``avx2``, ``vnni`` or ``arm``; this machine if not given.
        samples: How many validation samples (of a packed language model: blocks) it is verified on; all that the
            validation reads if not given. The first batches of a validation hold samples of any length.
        dtype: What ``hf`` keeps weights in: ``float32``, ``bfloat16`` or ``float16``.
        timed: Whether an ONNX file is timed, beside the float teacher, whose size is told then too.
        overrides: Keys and YAML texts that replace parts of the run's configuration.
        allow: Packages whose classes it may name, besides our own.

    Returns:
        The report, which ``export.json`` in the folder holds too.

    Raises:
        UserError: if the student cannot be written so, or what was written does not do what the student does; then
            there is no folder.
    """
    target = _target(to, isa, allow, dtype)
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
    check(target, student)
    place = given or run.folder / "exports" / target.name
    teacher = job.module.teacher

    def describe(report: dict[str, Any], fresh: Path) -> None:
        for name, text in task_file(job.data).items():
            (fresh / name).write_text(text, encoding="utf-8")
        described = card(run.config, read_json(run.result_file)[0], student, job.data, report, target)
        (fresh / CARD).write_text(described, encoding="utf-8")

    report = write_export(
        target,
        student,
        place,
        task=job.module.task,
        batches=lambda: _batches(job, samples),
        teacher=teacher.models[0] if teacher is not None and teacher.models else None,
        tokenizer=getattr(job.data, "tokenizer", None),
        begun={"run": f"{run.name} {run.id}"},
        verdict=Verdict.of_file(read_json(run.result_file)[0]).bad,
        reading=reading_of(TaskFile.of(job.data)),
        timed=timed,
        beside=describe,
    )
    if given is None:  # what lies elsewhere is the user's
        keep_export(job.logging, run, place)
    return report


def _target(to: str, isa: str | None, allow: Sequence[str], dtype: str | None) -> ExportTarget:
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
    return for_isa(kind, isa, to, dtype)


def _batches(job: Job, samples: int | None) -> Iterator[Batch]:
    if not is_overridden("val_dataloader", job.data):
        problem = "there is no validation data to verify the export with"
        raise UserError(problem, key="data", hint="name the split in data.splits")
    loader: Any = job.data.val_dataloader()
    share = job.arguments.get("limit_val_batches")  # what the validation reads
    with suppress(TypeError):  # of a loader that does not know how many batches it has
        count = len(loader) if share is None else share if isinstance(share, int) else int(len(loader) * share)
        loader = spoken(islice(loader, count), "batches compared", min(count, len(loader)), wide(), bar=True)
    yield from limited(map(job.module.task.batch, loader), samples)
