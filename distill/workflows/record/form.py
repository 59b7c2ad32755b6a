"""In which form a teacher's signals are to be recorded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from distill.core.idle_settings import idle
from distill.core.lazy_head import why_not_lazy
from distill.core.signals import Signals
from distill.core.task import TokenTask
from distill.core.teacher import TeacherSource
from distill.core.utils.errors import UserError
from distill.data import TextData
from distill.models.teachers.recorded.codecs import Codec, HiddenCodec, LogitsCodec
from distill.models.teachers.recorded.sparse import SampledCodec, TopKCodec

__all__ = ["Form", "log_unigram"]

_OPTIONS = {"dtype": ("hidden", "logits"), "k": ("topk",), "draws": ("sampled",)}
"""Option -> the kinds that it is for."""


@dataclass(frozen=True)
class Form:
    """In which form signals are to be kept, as the command line says it.

    Attributes:
        kind: One of the codecs.
        dtype: Of what is kept, for ``hidden`` and ``logits``; the kind's own if not given.
        k: Tokens of a position, for ``topk``; 50 if not given.
        draws: Likewise for ``sampled``; 12 if not given.
    """

    kind: str
    dtype: str | None = None
    k: int | None = None
    draws: int | None = None

    def __post_init__(self) -> None:
        for name, kinds in _OPTIONS.items():
            value = getattr(self, name)
            if value is not None and self.kind not in kinds:
                raise idle(f"--{name}", value, f"--as {self.kind}", f"use --as {kinds[0]}")
            if name != "dtype" and value is not None and value < 1:
                raise UserError("must be at least 1", key=f"--{name}", value=value, hint="give more")

    def codec(self, teacher: TeacherSource, task: Any, data: TextData, signals: Signals) -> Codec:
        """The codec for what a teacher says.

        Raises:
            UserError: if its signals cannot be kept so.
        """
        if task.outputs in ("vectors", "positions"):
            problem, hint = f"keeps what is said of classes or tokens, and not {task.outputs}", "let the teacher run"
            raise UserError(problem, key="--as", value=self.kind, hint=hint)
        if self.kind == "logits":
            if self.dtype == "int8":
                hint = "use float32 or bf16"
                raise UserError("is not for logits", key="--dtype", value=self.dtype, hint=hint)
            return LogitsCodec(self.dtype or "float32")
        if self.kind in ("topk", "sampled"):
            return self._sparse(task, data, signals)
        if signals.lazy_logits is None:
            lazy = isinstance(task, TokenTask) and len(teacher.models) == 1
            several = "several teachers have no common head" if len(teacher.models) > 1 else "it predicts no tokens"
            why = why_not_lazy(teacher.models[0]) if lazy else several
            problem = f"needs a teacher whose logits are the product of a head: {why}"
            raise UserError(problem, key="--as", value=self.kind, hint="use --as logits")
        return HiddenCodec(self.dtype or "bf16", signals.lazy_logits)

    def _sparse(self, task: Any, data: TextData, signals: Signals) -> Codec:
        width = signals.width
        if not isinstance(task, TokenTask) or width is None:
            problem, hint = f"is for a vocabulary, and {task.name} predicts no tokens", "use --as logits"
            raise UserError(problem, key="--as", value=self.kind, hint=hint)
        if self.kind == "sampled":
            return SampledCodec(self.draws or 12, width, data.seed)
        if (k := self.k or 50) >= width:
            raise UserError(f"must be less than the vocabulary, {width}", key="--k", value=k, hint="give a smaller one")
        return TopKCodec(k, log_unigram(data, width))


def log_unigram(data: TextData, width: int) -> Tensor:
    """How likely each of ``width`` tokens is in the training data (add-one), in nats, ``[V]``."""
    counts = torch.ones(width, dtype=torch.float64)
    if (seen := data.token_counts()) is not None:
        counts[: len(seen)] += seen[:width]
    return (counts / counts.sum()).log()
