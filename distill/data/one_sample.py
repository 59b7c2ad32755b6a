"""One training sample as a model reads it, token by token, with what of it counts."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING, Any

from distill.core.signals import IGNORE
from distill.data.features import Samples
from distill.data.targets import has_targets, show_pair

if TYPE_CHECKING:
    from distill.data.text import TextData

__all__ = ["one_sample", "show_tokens"]

_MOST = 200


def one_sample(data: TextData) -> list[str]:
    """The first sample of the first training batch in a few lines; none where a task has no label for each token."""
    samples = data.samples("train")
    if not data.task.packs and not has_targets(data.task):
        return []
    row = int(data.training_batches().epoch(0)[0][0])
    if has_targets(data.task):
        return show_pair(samples, row, data.tokenizer)
    return show_tokens(samples, row, data.tokenizer)


def show_tokens(samples: Samples, row: int, tokenizer: Any) -> list[str]:
    """A sample of a language model, or the first document of a packed block: runs of tokens read, and predicted.

    Args:
        samples: With ``input_ids`` and ``labels``, each label at the position that predicts it.
        row: Which.
        tokenizer: Of transformers.
    """
    sample = samples[0, row]
    ids, labels = sample["input_ids"].tolist(), sample["labels"].tolist()
    starts = [at for at, position in enumerate(sample.get("position_ids", ())) if at and not position]
    length = min([*starts[:1], len(ids)])
    predicted = [False, *(label != IGNORE for label in labels[:length])]
    tokens = [*ids[:length], labels[length - 1]]
    if not predicted[-1]:
        predicted, tokens = predicted[:-1], tokens[:-1]
    count, shown = sum(predicted), min(length + 1, _MOST)
    what = f"the first document of block {row}" if "position_ids" in sample else f"sample {row}"
    lines = [f"{what} of train: {len(tokens):,} tokens, {count:,} of them predicted"]
    for counts, run in groupby(range(min(shown, len(tokens))), key=predicted.__getitem__):
        texts = (repr(str(tokenizer.decode([tokens[at]])))[1:-1] for at in run)
        lines.append(f"  {'predicts' if counts else 'reads'.ljust(8)} {'│'.join(texts)}")
    if len(tokens) > shown:
        lines.append(f"  ... and {len(tokens) - shown:,} more")
    return lines
