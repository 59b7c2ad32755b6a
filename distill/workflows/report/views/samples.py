"""Single samples, and those on which two models part."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from distill.core.signals import IGNORE, Batch
from distill.core.task import TextTask
from distill.core.utils.visible import visible
from distill.data import TextData
from distill.workflows.report.predictions import Predictions
from distill.workflows.report.views.blocks import Cell, Column, Table
from distill.workflows.report.views.disagreements import Parted, part_in_classes, part_in_numbers, part_in_sets

__all__ = ["LONGEST", "Sampled", "class_name", "parted", "parted_table"]

LONGEST = 300
"""Characters of a text that are shown."""


class Sampled:
    """The samples of a split as texts and batches.

    Args:
        data: Of a run.
        use: ``validation`` or ``test``.
    """

    def __init__(self, data: TextData, use: str) -> None:
        self.task, self.tokenizer, self._samples = data.task, data.tokenizer, data.samples(use)
        self.special = frozenset(map(int, self.tokenizer.all_special_ids))
        self.other_tokens = data.other_tokenizer is not None

    def ids(self, row: int) -> list[int]:
        """The tokens of a sample."""
        found: list[int] = self._samples[0, row]["input_ids"].tolist()
        return found

    def batch(self, row: int, length: int | None = None) -> Batch:
        """A sample by itself, or its beginning."""
        sample = self._samples[0, row]
        if length is not None:
            size = len(sample["input_ids"])
            sample = {
                name: value[:length] if getattr(value, "shape", None) == (size,) else value
                for name, value in sample.items()
            }
        return self.task.collate([sample], self.tokenizer)

    def text(self, row: int) -> str:
        """What a model reads of a sample, a bar between two texts."""
        parts: list[list[int]] = [[]]
        for token in self.ids(row):
            if token in self.special:
                parts.append([])
            else:
                parts[-1].append(token)
        return visible(" | ".join(str(self.tokenizer.decode(part)).strip() for part in parts if part))

    def token(self, token: int) -> str:
        """A token as it is shown."""
        return visible(str(self.tokenizer.decode([token])).replace("\n", "⏎").strip()) or "␣"

    def neutral(self, ids: Tensor) -> Tensor:
        """Tokens that say nothing in place of those of a text: masks, or else padding, unknown ones, or ends."""
        names = ("mask_token_id", "pad_token_id", "unk_token_id", "eos_token_id")
        token = next((found for name in names if (found := getattr(self.tokenizer, name, None)) is not None), 0)
        special = torch.tensor(sorted(self.special), device=ids.device, dtype=ids.dtype)
        return torch.where(torch.isin(ids, special), ids, token)


def parted(first: Predictions, second: Predictions, outputs: str, most: int) -> list[Parted]:
    """Where two models part, as the outputs of their heads are; none of tokens of a vocabulary."""
    if first.logits is None or second.logits is None:
        return []
    if first.decisions is None:
        return part_in_numbers(first.logits, second.logits, most)
    part = part_in_sets if outputs == "labels" else part_in_classes
    return part(first.logits, second.logits, most)


def parted_table(
    apart: Sequence[Parted], who: tuple[str, str], first: Predictions, sampled: Sampled, most: int
) -> Table:
    """A row a sample: its text, its label, and what each model says."""
    task = sampled.task
    rows: list[list[Cell]] = []
    shown = set[int]()
    for one in apart:
        at = int(first.sample[one.place])
        word = one.place - int(torch.searchsorted(first.sample, at))
        if at in shown or len(rows) == most:
            continue
        shown.add(at)
        text = sampled.text(first.ids[at])
        text = text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"
        label = "" if first.labels is None else _label(task, first.labels[one.place], one)
        label = f"word {word + 1}: {label}" if task.words else label
        rows.append([Cell(text), Cell(label), Cell(_said(task, one, 0)), Cell(_said(task, one, 1))])
    columns = [Column(name, numeric=False) for name in ("text", "label", f"{who[0]} says", f"{who[1]} says")]
    order = "those first of which both are sure" if first.decisions is not None else "the furthest apart first"
    return Table(f"as the models read them; {order}", columns, rows)


def _label(task: TextTask, label: Tensor, one: Parted) -> str:
    if label.dim():  # of a set: whether the class is in it
        label = label[int(one.first)]
        return "" if label.isnan() else f"{task.class_name(int(one.first))}: {'yes' if label > 0.5 else 'no'}"
    if label.is_floating_point():
        return "" if label.isnan() else f"{float(label):.3g}"
    return "" if int(label) == IGNORE else class_name(task, int(label))


def _said(task: TextTask, one: Parted, who: int) -> str:
    value, sure = ((one.first, one.first_sure), (one.second, one.second_sure))[who]
    return f"{value:.3g}" if sure is None else f"{class_name(task, int(value))}, {100 * sure:.1f} %"


def class_name(task: TextTask, label: int) -> str:
    """A class as it is shown; its number where it has no name."""
    names = task.labels
    return visible(names[label]) if names and label < len(names) else str(label)
