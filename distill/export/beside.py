"""What lies beside a model in its export's folder: the tokenizer and the configuration."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from distill.core.pooling_files import write_pooling
from distill.core.utils.quiet import quiet_transformers

__all__ = ["write_beside"]


def write_beside(folder: Path, tokenizer: Any, student: nn.Module, report: dict[str, Any], *, pads: bool) -> None:
    """Put the tokenizer and the configuration beside the model.

    Args:
        folder: Of the export.
        tokenizer: Of the data, if it has one.
        student: The student.
        report: Of the export.
        pads: Whether the tokenizer's side of padding must be one that is right; transformers counts positions itself.
    """
    with quiet_transformers():
        if tokenizer is not None:
            sides = report.get("padding") if pads else None
            if sides and tokenizer.padding_side not in sides:
                tokenizer.padding_side = sides[0]
            tokenizer.save_pretrained(folder)
        write_pooling(folder, student, tokenizer)
        if isinstance(student, PreTrainedModel) and not (folder / "config.json").exists():
            student.config.save_pretrained(folder)
