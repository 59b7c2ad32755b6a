"""In which form a teacher's signals are to be recorded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from distill.core.lazy_head import why_not_lazy
from distill.core.signals import Signals
from distill.core.task import TokenTask
from distill.core.teacher import TeacherSource
from distill.core.utils.errors import UserError
from distill.models.teachers.recorded.codecs import Codec, HiddenCodec, LogitsCodec

__all__ = ["Form"]


@dataclass(frozen=True)
class Form:
    """In which form signals are to be kept, as the command line says it.

    Attributes:
        kind: One of the codecs.
        dtype: Of what is kept; the kind's own if not given.
    """

    kind: str
    dtype: str | None = None

    def codec(self, teacher: TeacherSource, task: Any, signals: Signals) -> Codec:
        """The codec for what a teacher says.

        Raises:
            UserError: if its signals cannot be kept so.
        """
        if self.kind == "logits":
            if self.dtype == "int8":
                hint = "use float32 or bf16"
                raise UserError("is not for logits", key="--dtype", value=self.dtype, hint=hint)
            return LogitsCodec(self.dtype or "float32")
        if signals.lazy_logits is None:
            lazy = isinstance(task, TokenTask) and len(teacher.models) == 1
            several = "several teachers have no common head" if len(teacher.models) > 1 else "it predicts no tokens"
            why = why_not_lazy(teacher.models[0]) if lazy else several
            problem = f"needs a teacher whose logits are the product of a head: {why}"
            raise UserError(problem, key="--as", value=self.kind, hint="use --as logits")
        return HiddenCodec(self.dtype or "bf16", signals.lazy_logits)
