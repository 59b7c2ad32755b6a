"""A batch as the prompts that a server can be asked about: each document by itself."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

from distill.core.signals import IGNORE, Batch

__all__ = ["Document", "documents"]


class Document(NamedTuple):
    """A prompt, and which of its tokens are predicted.

    Attributes:
        prompt: Ids, up to the last token that is predicted.
        places: p, ascending, where what is said of ``prompt[p + 1]`` counts.
    """

    prompt: list[int]
    places: list[int]


def documents(batch: Batch) -> Iterator[Document]:
    """What is to be asked for a language model's batch, in the order of the positions that count.

    A server knows nothing of packed blocks: where ``position_ids`` begin again, another prompt begins, so no document
    sees another. A label that stands at its last position is sent behind it, as what is said of a prompt's token is
    what was predicted from those before it. Where documents of a block see each other, a document's last label is not
    the token that follows: what comes after it is asked for by another prompt, from the block's beginning on.

    Where the teacher reads other inputs than the student (context distillation), these are sent.
    """
    assert batch.labels is not None
    at = batch.extras.get("teacher_at")
    inputs, prefix = (batch.inputs, "") if at is None else (batch.extras, "teacher_")
    ids, positions = inputs[f"{prefix}input_ids"], inputs.get(f"{prefix}position_ids")
    mask = batch.labels != IGNORE if batch.mask is None else batch.mask
    for row in range(batch.size):
        counted = mask[row].nonzero()[:, 0]
        places = (counted if at is None else at[row][counted]).tolist()
        labels, tokens = batch.labels[row][counted].tolist(), ids[row].tolist()
        begins = [] if positions is None else (positions[row] == 0).nonzero()[:, 0].tolist()
        wanted = dict(zip(places, labels, strict=True))
        for first, end in pairwise([*sorted({0, *begins}), len(tokens)]):
            inside = [place for place in places if first <= place < end]
            while inside:
                ended = (n for n, p in enumerate(inside) if p + 1 == len(tokens) or tokens[p + 1] != wanted[p])
                count = next(ended, len(inside) - 1) + 1
                last = inside[count - 1]
                yield Document([*tokens[first : last + 1], wanted[last]], [place - first for place in inside[:count]])
                inside = inside[count:]
