"""How large a model is: parameters, files, operations."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from distill.core.forward import forward
from distill.core.model_spec import parameter_count
from distill.core.signals import Batch, Request
from distill.core.utils.errors import UserError
from distill.core.utils.json_file import number_at
from distill.core.utils.paths import resolve
from distill.export.folder import REPORT
from distill.export.onnx.convert import without_quantization
from distill.export.student import LENGTH, one_sample
from distill.export.summary import gzipped_bytes
from distill.models.compatibility import positions_of
from distill.run.listing import read_json
from distill.workflows.report.costs import Size
from distill.workflows.report.predictions import Subject

__all__ = ["flops", "nonzero", "sample_input", "sample_length", "size_of"]

_GZIPPED = 1 << 30
"""The most bytes that are gzipped: more takes minutes."""


def size_of(subject: Subject, inputs: dict[str, Tensor], length: int | None) -> Size:
    """How large a model is. Of an export it is the size of its files; its parameters are its student's.

    Args:
        subject: The model.
        inputs: One sample, by name.
        length: Its tokens, if it is text.
    """
    files = _weights(subject)
    stored = None if files is None else sum(path.stat().st_size for path in files)
    zipped = None
    if files is not None and stored is not None and stored <= _GZIPPED:
        zipped = sum(map(gzipped_bytes, files))
    if subject.role == "exported":
        report = read_json(Path(subject.source) / REPORT)[0]
        kept = {name: number_at(report, name) for name in ("bytes", "gzipped_bytes")}
        return Size(**{name: None if value is None else int(value) for name, value in kept.items()})
    model = subject.model
    if model is None:
        models = subject.teacher.models if subject.teacher is not None else []
        return Size(sum(map(parameter_count, models)) or None, bytes=stored, gzipped_bytes=zipped)
    if stored is None:
        stored = sum(p.numel() * p.element_size() for p in model.parameters())
    count = flops(model, inputs)
    return Size(parameter_count(model), nonzero(model), stored, zipped, count, None if count is None else length)


def nonzero(model: nn.Module) -> int:
    """Parameters that are not zero, those that are shared once."""
    return sum(int(torch.count_nonzero(parameter)) for parameter in model.parameters())


def flops(model: nn.Module, inputs: dict[str, Tensor]) -> int | None:
    """Operations of the products in one forward pass, a multiplication and an addition each one.

    Rounding is left out of it. ``None`` where the model cannot be called with ``inputs``.
    """
    plain = without_quantization(model).eval()
    counter = FlopCounterMode(display=False)
    try:
        with torch.no_grad(), counter:
            forward(plain, inputs, Request(logits=True))
    except Exception:  # whatever a module of one's own raises
        return None
    return int(counter.get_total_flops()) or None


def _weights(subject: Subject) -> list[Path] | None:
    """The files of a model's weights; ``None`` where they are not on this machine, or in no file of their own."""
    try:
        folder = Path(resolve(subject.source, "RUN")) if subject.source else None
    except UserError:
        return None
    if folder is None or not folder.is_dir():
        return None
    return sorted(folder.glob("*.safetensors")) or None


def sample_length(inputs: dict[str, Any]) -> int | None:
    """The tokens of one sample; ``None`` of what is no text."""
    return int(inputs["input_ids"].shape[1]) if "input_ids" in inputs else None


def sample_input(batch: Batch, models: Sequence[nn.Module]) -> dict[str, Tensor]:
    """One sample; of text, of :data:`~distill.export.student.LENGTH` tokens, or as many as all models read."""
    known = [positions_of(model) for model in models]
    return one_sample(batch, min([LENGTH, *(positions for positions in known if positions is not None)]))
