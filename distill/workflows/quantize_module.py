"""Any trained module quantized without training, on data that is at hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from distill.compression.quantization import ptq
from distill.compression.quantization.outputs import Outputs
from distill.compression.quantization.scheme import ActivationScheme, Bits, WeightScheme
from distill.compression.quantization.starts.settings import Start
from distill.compression.quantization.storage import Store
from distill.core import record
from distill.core.lazy_head import logits_request
from distill.core.task import Task
from distill.core.utils.errors import UserError
from distill.models.unfinished import refuse_unfinished
from distill.tasks.loaders import batches_of, task_of
from distill.training.calibration import first_batches

__all__ = ["quantize"]


def quantize(
    student: nn.Module,
    data: Any = None,
    *,
    weights: WeightScheme | None = None,
    activations: ActivationScheme | None = None,
    embeddings: WeightScheme | None = None,
    overrides: Mapping[str, Bits | WeightScheme | None] | None = None,
    include: Sequence[str] | None = None,
    exclude: Sequence[str] = (),
    start: Start | None = None,
    outputs: Outputs = "auto",
    store: Store = "float",
    task: str | Task | None = None,
    calibrate: int = 256,
) -> nn.Module:
    """Quantize a trained module in place, without training it, as ``distill quantize`` does: ``distill.quantize``.

    Args:
        student: Trained. It is left in eval mode, with its weights rounded.
        data: What static inputs take their ranges from, and what a start looks at: a ``DataLoader``, a list of batches,
            or a data module, whose training data is read. Not needed without either.
        weights: 8 bits a channel if not given.
        activations: Inputs of layers: ``ActivationScheme()`` for static int8; left as they are if not given.
        embeddings: Likewise.
        overrides: Layer, by a pattern of its name -> its bits, its scheme, or ``None`` to leave it.
        include: Patterns of the layers that are quantized; all but the last if not given.
        exclude: Patterns of layers that are left.
        start: What the weights are scaled and rounded by; to the nearest value if not given.
        outputs: Whether what lies between convolutions is rounded where a runtime then computes with integers:
            ``auto``, or ``none``.
        store: How :func:`distill.save` keeps the weights: ``float``, which transformers opens too, or ``integers``.
        task: How the student reads a batch; see :func:`distill.export`.
        calibrate: Samples that the ranges are taken from.

    Returns:
        ``student``, for :func:`distill.save` and :func:`distill.export`.

    Raises:
        UserError: if the settings do not fit the module, it is quantized already, or there is no data for its ranges.
    """
    refuse_unfinished(student)
    static = activations is not None and activations.kind == "static"
    reads = static or (start is not None and start.reads_inputs)
    if not reads and data is not None:
        problem, hint = (
            "is read for static inputs alone, and by starts such as gptq",
            "give activations=ActivationScheme(), or leave it out",
        )
        raise UserError(problem, key="data", value=type(data).__name__, hint=hint)
    if calibrate < 1:
        raise UserError("must be at least 1", key="calibrate", value=calibrate, hint="256 are usually enough")
    judge = task_of(data, task)
    like = next(student.parameters())
    given = batches_of([] if data is None else data, judge, "fit") if reads else list
    batches = first_batches(given(), judge, calibrate, like.device)
    if reads and not batches:  # before the layers are other ones
        problem, hint = (
            "static inputs and starts look at batches, and there are none",
            "give a DataLoader",
        )
        raise UserError(problem, key="data", value=data, hint=hint)
    steps = ptq.quantize(
        student,
        batches,
        lambda model, batch: judge.forward(model, batch, logits_request(model)),
        weights=weights,
        activations=activations,
        embeddings=embeddings,
        overrides=overrides,
        include=include,
        exclude=exclude,
        start=start,
        outputs=outputs,
        store=store,
    )
    record.note(student, *steps)
    return student
