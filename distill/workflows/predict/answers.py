"""What a model says of a row, shown: as an object, or as lines of text."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from distill.core.answer import Answer, cells
from distill.core.task import TextTask
from distill.core.utils.visible import HIDDEN, visible

__all__ = ["Show", "as_json", "as_text"]

Show = Callable[[TextTask, Mapping[str, Any], Answer], str]


def as_json(task: TextTask, row: Mapping[str, Any], answer: Answer) -> str:
    """One object in one line: the row's texts under their roles, and the answer."""
    shown = zip(row, cells(row), strict=True)
    texts = {"words" if isinstance(v, list) else task.shown.get(role, role): v for role, v in shown}
    line = json.dumps(texts | answer, ensure_ascii=False)
    return HIDDEN.sub(lambda match: f"\\u{ord(match[0]):04x}", line)


def as_text(task: TextTask, row: Mapping[str, Any], answer: Answer) -> str:
    """Fields with tabs between them, the prediction before the text; of words, and of masks, a line for each."""
    lines = [_line(fields) for fields in task.fields(row, answer)]
    return "\n".join([*lines, ""] if task.words else lines)  # words have an empty line behind them


_BREAKS = str.maketrans({"\t": r"\t", "\n": r"\n", "\r": r"\r"})


def _line(fields: list[str]) -> str:
    return "\t".join(visible(field.translate(_BREAKS)) for field in fields)
