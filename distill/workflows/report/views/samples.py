"""Single samples: those on which two models part, and what each of them read there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from distill.core.signals import IGNORE, Batch, Request, Signals
from distill.core.task import TextTask
from distill.core.utils.errors import UserError, first_line
from distill.core.utils.visible import visible
from distill.data import TextData
from distill.workflows.report.predictions import Predictions, Subject
from distill.workflows.report.views.attention import attention_map, attention_picture
from distill.workflows.report.views.attribution import STEPS, Score, integrated_gradients, word_values
from distill.workflows.report.views.blocks import Block, Cell, Column, Pictures, Table, Text, Words
from distill.workflows.report.views.disagreements import Parted, part_in_classes, part_in_numbers, part_in_sets

__all__ = ["Sampled", "chosen_rows", "explained", "parted", "parted_table"]

_LONGEST = 300
_TOKENS, _DRAWN = 32, 64
"""Tokens of a short sample, and the most of one whose attention is drawn: more could not be read."""

_READ = 8192
"""Tokens that a model reads to explain a sample, about."""

_LOST = 0.05
"""The part of a score that attributions may leave out without a word."""


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
        text = text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"
        label = "" if first.labels is None else _label(task, first.labels[one.place], one)
        label = f"word {word + 1}: {label}" if task.words else label
        rows.append([Cell(text), Cell(label), Cell(_said(task, one, 0)), Cell(_said(task, one, 1))])
    columns = [Column(name, numeric=False) for name in ("text", "label", f"{who[0]} says", f"{who[1]} says")]
    return Table("as the models read them; those first of which both are sure", columns, rows)


def _label(task: TextTask, label: Tensor, one: Parted) -> str:
    if label.dim():  # of a set: whether the class is in it
        label = label[int(one.first)]
        return "" if label.isnan() else f"{task.class_name(int(one.first))}: {'yes' if label > 0.5 else 'no'}"
    if label.is_floating_point():
        return "" if label.isnan() else f"{float(label):.3g}"
    return "" if int(label) == IGNORE else _class(task, int(label))


def _said(task: TextTask, one: Parted, who: int) -> str:
    value, sure = ((one.first, one.first_sure), (one.second, one.second_sure))[who]
    return f"{value:.3g}" if sure is None else f"{_class(task, int(value))}, {100 * sure:.1f} %"


def _class(task: TextTask, label: int) -> str:
    names = task.labels
    return visible(names[label]) if names and label < len(names) else str(label)


def chosen_rows(apart: Sequence[Parted], found: Predictions, count: int, longest: int = _TOKENS) -> list[int]:
    """Places of samples to look into: those on which the models part, then others evenly, none of them long."""
    lengths = [0] * len(found.ids) if found.lengths is None else found.lengths.tolist()
    short = [at for at, length in enumerate(lengths) if length <= longest]
    short = short or sorted(range(len(lengths)), key=lengths.__getitem__)[:count]
    places = dict.fromkeys(int(found.sample[one.place]) for one in apart)
    first = [at for at in places if at in set(short)][: (count + 1) // 2]
    others = [at for at in short if at not in first]
    step = max(1, len(others) // max(1, count - len(first)))
    return [*first, *others[step // 2 :: step]][:count]


def explained(subjects: Sequence[Subject], rows: Sequence[int], sampled: Sampled) -> list[Block]:
    """For each sample: which words its prediction follows from, and where each model's last layer looks.

    Args:
        subjects: The models, the teacher first.
        rows: Of the split.
        sampled: The split.
    """
    blocks: list[Block] = []
    for number, row in enumerate(rows):
        try:
            blocks += _explained(subjects, row, sampled, f"x{number}")
        except (UserError, RuntimeError, TypeError, AttributeError, NotImplementedError) as error:
            # models of others stumble anywhere
            blocks.append(Text(f"A sample could not be explained: {first_line(error)}"))
    return blocks


def _explained(subjects: Sequence[Subject], row: int, sampled: Sampled, name: str) -> list[Block]:
    task, ids = sampled.task, sampled.ids(row)
    ids = ids[:_TOKENS] if task.packs else ids  # what a text is, hangs on all of it
    batch = sampled.batch(row, len(ids))
    decode = partial(sampled.tokenizer.decode, clean_up_tokenization_spaces=False)
    lines: dict[str, Any] = {}
    notes: dict[str, str] = {}
    pictures = []
    for at, subject in enumerate(subjects):
        if (model := subject.model) is None:
            continue
        here = batch.to(next(model.parameters()).device)
        run = partial(task.forward, model, here)
        said = _score(sampled, run(Request(logits=True)))
        if said is not None:
            neutral, most = sampled.neutral(here.inputs["input_ids"]), max(STEPS, min(8 * STEPS, _READ // len(ids)))
            found = integrated_gradients(model, here.inputs, neutral, said[1], most=most)
            lines[subject.key] = word_values(ids, found.tokens.tolist(), decode, list(sampled.special))
            lost = f"; {100 * found.missing:.0f} % of the score is not accounted for" if found.missing > _LOST else ""
            notes[subject.key] = f"says {said[0]}{lost}"
        tokens = [sampled.token(token) for token in ids]
        if len(tokens) > _DRAWN:
            continue
        pictures.append(attention_picture(attention_map(model, run), tokens, subject.key, f"{name}a{at}"))
    after = f"Sample {row}: what comes after its first {len(ids)} tokens"
    title = after if task.packs else sampled.text(row)[:_LONGEST]
    return [Words(title, lines, notes), *([Pictures(pictures)] if pictures else [])]


def _score(sampled: Sampled, signals: Signals) -> tuple[str, Score] | None:
    """What the model says of a sample, in words, and the score that says so: the logit of its class, or of the token
    that comes next, or the number; nothing where it says many things."""
    task, logits = sampled.task, signals.logits
    assert logits is not None
    if logits.dim() > 2 and not task.packs:
        return None
    last = (logits[0] if logits.dim() == 2 else logits[0, -1]).detach()
    target = 0 if task.predict(logits) is None else int(last.argmax())

    def score(module: nn.Module, inputs: Mapping[str, Tensor]) -> Tensor:
        found = task.forward(module, Batch(dict(inputs)), Request(logits=True)).logits
        assert found is not None
        return (found if found.dim() == 2 else found[:, -1])[:, target].float()

    if task.predict(logits) is None:
        return f"{float(last[0]):.3g}", score
    sure = 100 * float((last.sigmoid() if task.outputs == "labels" else last.softmax(-1))[target])
    name = _class(task, target) if task.labels else f"“{sampled.token(target)}”"
    return f"{name}, {sure:.1f} %", score
