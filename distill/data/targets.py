"""Rows whose text is answered by another: their settings, empty targets, and what of them is cut."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pyarrow.compute as pc  # type: ignore[import-untyped]

from distill.core.task import TextTask
from distill.core.utils.errors import UserError
from distill.core.utils.words import amount
from distill.data import arrow
from distill.data.features import Samples

if TYPE_CHECKING:
    from distill.data.text import TextData

__all__ = ["LENGTH", "TARGET", "cut_targets", "has_targets", "longest_target", "refuse_empty", "show_pair"]

TARGET, LENGTH = "target", "data.max_target_length"
"""The role of the text that is to be written, and the setting that bounds its tokens."""

_MOST = 200


def has_targets(task: TextTask) -> bool:
    """Whether a row of the task has a text that is read and one that is to be written."""
    return TARGET in task.sought


def longest_target(data: TextData) -> tuple[str, int] | None:
    """The setting that bounds a target, and its tokens; ``None`` where there are none."""
    length: int | None = getattr(data.task, "max_target_length", None) if has_targets(data.task) else None
    return None if length is None else (LENGTH, length)


def refuse_empty(where: str, dataset: Any, column: str) -> None:
    """Refuse targets in which nothing stands: there is nothing to learn from them, or to be judged by.

    Raises:
        UserError: with their number, and the first.
    """
    blank = pc.equal(pc.utf8_length(pc.utf8_trim_whitespace(arrow.column(dataset, column))), 0)
    if count := pc.sum(blank).as_py() or 0:
        first = pc.index(blank, True).as_py() + 1
        problem = f"{amount(count, 'row')} of {where} with nothing to be written, the first of them row {first}"
        raise UserError(problem, key=f"data.columns.{TARGET}", value=column, hint="fill them in or leave them out")


def cut_targets(use: str, samples: Samples, longest: tuple[str, int] | None) -> list[str]:
    """A line on targets that were cut; none where none was.

    Args:
        use: Of the samples.
        samples: Tokenized.
        longest: As of :func:`longest_target`.
    """
    beyond: Any = samples.features.get("target_beyond")
    if longest is None or beyond is None or not (beyond > 0).any():
        return []
    key, limit = longest
    cut = f"the targets of {int((beyond > 0).sum()):,} of {len(samples):,} rows of {use} are cut to {limit:,} tokens"
    return [f"data: {cut} ({key}); the longest of them has {limit + int(beyond.max()):,}"]


def show_pair(samples: Samples, row: int, tokenizer: Any) -> list[str]:
    """A sample's two texts, token by token.

    Args:
        samples: With ``input_ids`` of the text that is read, and ``labels`` of the one that is written.
        row: Which.
        tokenizer: Of transformers.
    """
    sample = samples[0, row]
    ids, labels = sample["input_ids"].tolist(), sample["labels"].tolist()
    head = f"sample {row} of train: {amount(len(ids), 'token')} read, {len(labels):,} to be written"
    return [
        head,
        f"  {'reads'.ljust(8)} {_tokens(ids, tokenizer)}",
        f"  {'writes'.ljust(8)} {_tokens(labels, tokenizer)}",
    ]


def _tokens(ids: Sequence[int], tokenizer: Any) -> str:
    texts = "│".join(repr(str(tokenizer.decode([one])))[1:-1] for one in ids[:_MOST])
    return texts if len(ids) <= _MOST else f"{texts} ... and {len(ids) - _MOST:,} more"
