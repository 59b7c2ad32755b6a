"""What a run says of its data: what was taken for what, and what was left out; how often tokens come."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.compute as pc  # type: ignore[import-untyped]
import torch

from distill.data import arrow
from distill.data.features import Ragged, Samples
from distill.data.rows import Rows

if TYPE_CHECKING:
    from distill.data.text import TextData

__all__ = ["figures", "said", "token_counts"]

_NAMED = 6  # classes that are listed
_COUNTED = 1 << 24  # tokens at the most


def said(rows: Rows, left_out: Mapping[str, int], given: Mapping[str, str], notes: Sequence[str]) -> list[str]:
    """Lines on columns that were recognised by their names, on rows without a label and on empty texts.

    Args:
        rows: The data.
        left_out: Use -> rows of which the tokenizer made nothing; uses that are not read are not there.
        given: Role -> column, as the user has it: needs no telling.
        notes: What was decided when the data was read.
    """
    roles: dict[str, str] = {}
    for columns in rows.columns.values():
        roles |= columns
    taken = [f"{role} is the column {column!r}" for role, column in roles.items() if role not in given]
    if "label" in roles and rows.labels is not None and taken:
        taken[-1] += f" ({_classes(rows.labels.names)})" if "label" not in given else ""
    lines = [*notes, ", ".join(taken)] if taken else [*notes]
    for use, count in rows.without_label.items():
        if count and use in left_out:
            of = len(rows.splits[use])
            what = "the teacher's signals alone teach there" if use == "train" else "they are not judged"
            lines.append(f"{count} of {of} rows of {use} have no label: {what}")
    for use, dropped in left_out.items():
        empty = _empty(rows.splits[use], rows.columns[use]["text"])
        if dropped or empty:
            what = "left out, as the tokenizer makes nothing of them" if dropped else "read as they are"
            lines.append(f"{dropped or empty} of {len(rows.splits[use])} texts of {use} are empty: {what}")
    return [f"data: {line}" for line in lines]


def figures(data: TextData) -> dict[str, Any]:
    """Figures of the data as it is trained on: samples of each split, tokens, batches, padding, classes."""
    samples = {use: data.samples(use) for use in data.uses}
    batches = data.training_batches()
    lengths = samples["train"].lengths
    positions = sum(len(rows) * int(lengths[rows].max()) for rows in batches.epoch(0))
    return {
        **{f"{use}_samples": len(one) for use, one in samples.items()},
        "train_tokens": int(lengths.sum()),
        "mean_length": float(lengths.mean()),
        "batches_per_epoch": len(batches),
        "tokens_per_batch": float(lengths.sum() / len(batches)),
        "padding": 1 - float(lengths.sum()) / positions,
        "labels": data.labels,
        "tokenizer_size": len(data.tokenizer),
        "fingerprint": data.fingerprint,
    }


def token_counts(samples: Samples, predicted: str, tokenizer: Any) -> torch.Tensor:
    """How often each token is to be predicted, ``[C]``; of more than 16 million tokens every n-th is counted.

    Args:
        samples: Tokenised.
        predicted: The feature of which tokens are predicted.
        tokenizer: Of transformers.
    """
    column = samples.features[predicted]
    values = column.values if isinstance(column, Ragged) else column
    counts = np.bincount(values[:: 1 + len(values) // _COUNTED], minlength=len(tokenizer))
    if predicted == "input_ids":  # special ones are never hidden
        counts[tokenizer.all_special_ids] = 0
    return torch.from_numpy(counts)


def _classes(names: list[str] | None) -> str:
    if names is None:
        return "numbers"
    listed = ", ".join(names[:_NAMED]) + (", ..." if len(names) > _NAMED else "")
    return f"{len(names)} classes: {listed}"


def _empty(dataset: Any, column: str) -> int:
    values = arrow.column(dataset, column)
    empty = pc.equal(arrow.lengths(values), 0) if arrow.is_list(values) else pc.equal(values, "")
    return pc.sum(empty).as_py() or 0
