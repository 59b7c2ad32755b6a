"""How near a text that was written comes to the one that is expected."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence

import torch

__all__ = ["MEANS", "chrf", "text_scores"]

MEANS = {
    "rouge_l": "F1 of the longest common subsequence of words, 0 to 1",
    "chrf": "F2 of runs of 1 to 6 letters, 0 to 1",
    "exact_match": "answers that are the expected text, white space around it left out",
}
"""What the scores are."""

_ORDER, _BETA = 6, 2


def text_scores(written: Sequence[str], expected: Sequence[str]) -> dict[str, tuple[float, float]]:
    """ROUGE-L, chrF and exact match, each with its standard error over the texts.

    ``rouge_l`` is the mean over the texts of F1 = 2 P R / (P + R), where P and R are the length of the longest common
    subsequence of words over the words written and expected (Lin, 2004). Words are letters and digits of any script, in
    lower case. :func:`chrf` is over all texts together; its standard error is that of the mean of the single texts'.

    Args:
        written: One text or more.
        expected: As many.

    Returns:
        Name -> score in [0, 1], and its standard error.
    """
    from torchmetrics.functional.text import rouge_score

    each: dict[str, list[float]] = {name: [] for name in MEANS}
    for ours, theirs in zip(written, expected, strict=True):
        found = rouge_score(ours, theirs, rouge_keys="rougeL", normalizer=_words, tokenizer=str.split)
        each["rouge_l"].append(float(found["rougeL_fmeasure"]))
        each["chrf"].append(chrf([ours], [theirs]))
        each["exact_match"].append(float(ours.strip() == theirs.strip()))
    scores = {name: _mean(values) for name, values in each.items()}
    return scores | {"chrf": (chrf(written, expected), scores["chrf"][1])}


def chrf(written: Sequence[str], expected: Sequence[str]) -> float:
    """(1 + b^2) P R / (b^2 P + R) with b = 2, where P and R are the mean precision and recall of n-grams of characters.

    Counts are summed over all texts, for each n = 1 ... 6 that both sides have; white space does not count. (That of
    torchmetrics 1.9 leaves out what was expected where nothing of it was written.)

    Reference:
        Popović: chrF: character n-gram F-score for automatic MT evaluation, 2015.
    """
    precisions, recalls = [], []
    pairs = [("".join(ours.split()), "".join(theirs.split())) for ours, theirs in zip(written, expected, strict=True)]
    for n in range(1, _ORDER + 1):
        grams = [(_grams(ours, n), _grams(theirs, n)) for ours, theirs in pairs]
        made, wanted = (sum(sum(pair[side].values()) for pair in grams) for side in (0, 1))
        if made and wanted:
            hits = sum(sum((ours & theirs).values()) for ours, theirs in grams)
            precisions.append(hits / made)
            recalls.append(hits / wanted)
    if not sum(precisions):
        return 0.0
    precision, recall = sum(precisions) / len(precisions), sum(recalls) / len(recalls)
    return (1 + _BETA**2) * precision * recall / (_BETA**2 * precision + recall)


def _grams(text: str, n: int) -> Counter[str]:
    return Counter(text[place : place + n] for place in range(len(text) - n + 1))


def _words(text: str) -> str:
    return re.sub(r"[^\w]|_", " ", text.lower())


def _mean(values: Sequence[float]) -> tuple[float, float]:
    of = torch.tensor(values, dtype=torch.float64)
    return float(of.mean()), float(of.std() / math.sqrt(len(of))) if len(of) > 1 else math.nan
