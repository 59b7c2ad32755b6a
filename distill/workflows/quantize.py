"""A run's student quantized without training, into a run of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch

from distill.compression.quantization import ptq
from distill.compression.quantization.outputs import Outputs
from distill.compression.quantization.scheme import ActivationScheme, WeightScheme
from distill.compression.quantization.starts.settings import Start
from distill.core import record
from distill.core.idle_settings import idle
from distill.core.lazy_head import logits_request
from distill.core.module_selection import CONVOLUTIONS
from distill.core.utils.console import number, wide
from distill.core.utils.errors import UserError
from distill.core.utils.progress import track
from distill.core.utils.secrets import scrub_override
from distill.run.folder import Run
from distill.training.calibration import first_batches
from distill.workflows.compressed_run import keep
from distill.workflows.evaluate import read_training, refuse_quantized_run, reopen, score

__all__ = ["quantize"]


def quantize(
    folder: str | Path,
    *,
    calibrate: int = 256,
    weights: WeightScheme | None = None,
    activations: ActivationScheme | None = None,
    embeddings: bool = True,
    start: Start | None = None,
    outputs: Outputs = "auto",
    run_id: str | None = None,
    overrides: Sequence[tuple[str, str]] = (),
    allow: Sequence[str] = (),
) -> Run:
    """Quantize a run's student without training it: the baseline of quantization-aware training.

    Args:
        folder: The run.
        calibrate: Training samples that static inputs take their ranges from, and a start its statistics.
        weights: 8 bits a channel if not given.
        activations: Inputs of the layers; ``None`` leaves them as they are.
        embeddings: Whether embeddings are quantized too, to 8 bits a row.
        start: What the weights are scaled and rounded by; to the nearest value if not given.
        outputs: Whether what lies between convolutions is rounded where a runtime then computes with integers:
            ``auto``, or ``none``.
        run_id: Id of the new run.
        overrides: As of :func:`~distill.workflows.evaluate.reopen`.
        allow: Likewise.

    Returns:
        A run of its own, ``<name>-quantized/<id>`` beside the run's own folders, that can be scored and exported.

    Raises:
        UserError: as :func:`~distill.workflows.evaluate.reopen`, or if the student is quantized already or the
            scheme does not fit it.
    """
    if calibrate < 1:
        raise UserError("must be at least 1", key="--calibrate", value=calibrate, hint="256 are usually enough")
    run, job = reopen(folder, "validate", overrides=overrides, allow=allow, alone=True, heeds=("runs",))
    refuse_quantized_run(job, folder, "quantize")
    elsewhere = any(key == "runs" for key, _ in overrides)
    root = job.config["runs"] if elsewhere else run.folder.parents[1]
    new = Run.plan(root, f"{run.name}-quantized", run_id)
    student, task = job.module.student, job.module.task
    if outputs != "auto" and not any(isinstance(layer, CONVOLUTIONS) for layer in student.modules()):
        raise idle("--outputs", outputs, "a student without convolutions", "quantize one that has some")
    _, before = score(job, "validate")
    static = activations is not None and activations.kind == "static"
    reads = static or (start is not None and start.reads_inputs)
    if reads:
        read_training(run, job)
    batches = first_batches(job.data.train_dataloader(), task, calibrate, torch.device("cpu")) if reads else []
    try:
        steps = ptq.quantize(
            student,
            batches,
            lambda model, batch: task.forward(model, batch, logits_request(model)),
            weights=weights,
            activations=activations,
            embeddings=WeightScheme() if embeddings else None,
            start=start,
            outputs=outputs,
            progress=partial(track, what="layers rounded", console=wide()),
            key="quantize",
        )
    except UserError as error:
        options = {"quantize.weights.group_size": "--group", "quantize.start.method": "--start"}
        if error.key not in options:
            raise
        hint = "give another size" if options[error.key] == "--group" else error.hint
        raise UserError(error.problem, key=options[error.key], value=error.value, hint=hint) from error
    record.note(student, *steps)
    _, scores = score(job, "validate")
    how: dict[str, Any] = {"embeddings": embeddings} | ({"calibrate": calibrate} if reads else {})
    how |= {"weights": asdict(weights or WeightScheme()), "activations": asdict(activations) if activations else None}
    if outputs != "auto":
        how["outputs"] = outputs
    if start is not None:
        how["start"] = asdict(start)
    if overrides:
        how["overrides"] = {key: scrub_override(key, text) for key, text in overrides}
    keep(new, run, job, scores, how, by="quantize", folder=run.folder)
    print(f"{task.monitor} before: {number(before[f'val/{task.monitor}'])}")
    print(f"quantized student: {new.student}")
    return new
