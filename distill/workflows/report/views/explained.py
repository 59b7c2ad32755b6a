"""Samples looked into: which words a prediction follows from, and where the models look."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from torch import Tensor, nn

from distill.core.signals import Batch, Request, Signals
from distill.core.utils.errors import UserError, first_line
from distill.workflows.report.predictions import Predictions, Subject
from distill.workflows.report.views.attention import attention_map, attention_picture
from distill.workflows.report.views.attribution import STEPS, Score, integrated_gradients, word_values
from distill.workflows.report.views.blocks import Block, Pictures, Text, Words
from distill.workflows.report.views.disagreements import Parted
from distill.workflows.report.views.samples import LONGEST, Sampled, class_name

__all__ = ["chosen_rows", "explained"]

_TOKENS, _DRAWN = 32, 64
"""Tokens of a short sample, and the most of one whose attention is drawn: more could not be read."""

_READ = 8192
"""Tokens that a model reads to explain a sample, about."""

_LOST = 0.05
"""The part of a score that attributions may leave out without a word."""


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
    for row in rows:
        try:
            blocks += _explained(subjects, row, sampled)
        except (UserError, RuntimeError, TypeError, AttributeError, NotImplementedError) as error:
            # models of others stumble anywhere
            blocks.append(Text(f"A sample could not be explained: {first_line(error)}"))
    return blocks


def _explained(subjects: Sequence[Subject], row: int, sampled: Sampled) -> list[Block]:
    task, ids = sampled.task, sampled.ids(row)
    ids = ids[:_TOKENS] if task.packs else ids  # what a text is, hangs on all of it
    batch = sampled.batch(row, len(ids))
    decode = partial(sampled.tokenizer.decode, clean_up_tokenization_spaces=False)
    lines: dict[str, Any] = {}
    notes: dict[str, str] = {}
    pictures = []
    for subject in subjects:
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
        pictures.append(attention_picture(attention_map(model, run), tokens, subject.key))
    after = f"Sample {row}: what comes after its first {len(ids)} tokens"
    title = after if task.packs else sampled.text(row)[:LONGEST]
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
    name = class_name(task, target) if task.labels else f"“{sampled.token(target)}”"
    return f"{name}, {sure:.1f} %", score
