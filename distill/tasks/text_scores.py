"""How near a text that was written comes to the one that is expected."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

import torch

__all__ = ["MEANS", "text_scores"]

MEANS = {
    "rouge_l": "F1 of the longest common subsequence of words, 0 to 1",
    "chrf": "F2 of runs of 1 to 6 letters, 0 to 1",
    "exact_match": "answers that are the expected text, white space around it left out",
}
"""What the scores are."""


def text_scores(written: Sequence[str], expected: Sequence[str]) -> dict[str, tuple[float, float]]:
    """ROUGE-L, chrF and exact match, each with its standard error over the texts.

    ``rouge_l`` is the mean over the texts of F1 = 2 P R / (P + R), where P and R are the length of the longest common
    subsequence of words over the words written and expected (Lin, 2004). Words are letters and digits of any script, in
    lower case. ``chrf`` is over all texts together, the mean over n = 1 ... 6 of the F2 of n-grams of characters
    (Popović, 2015); its standard error is that of the mean of the single texts' scores.

    Args:
        written: One text or more.
        expected: As many.

    Returns:
        Name -> score in [0, 1], and its standard error.
    """
    from torchmetrics.functional.text import chrf_score, rouge_score

    each: dict[str, list[float]] = {"rouge_l": [], "chrf": [], "exact_match": []}
    for ours, theirs in zip(written, expected, strict=True):
        found = rouge_score(ours, theirs, rouge_keys="rougeL", normalizer=_words, tokenizer=str.split)
        each["rouge_l"].append(float(found["rougeL_fmeasure"]))
        each["exact_match"].append(float(ours.strip() == theirs.strip()))
    targets = [[text] for text in expected]
    chrf, single = chrf_score(list(written), targets, n_word_order=0, return_sentence_level_score=True)
    each["chrf"] = single.tolist()
    scores = {name: _mean(values) for name, values in each.items()}
    return scores | {"chrf": (float(chrf), scores["chrf"][1])}


def _words(text: str) -> str:
    return re.sub(r"[^\w]|_", " ", text.lower())


def _mean(values: Sequence[float]) -> tuple[float, float]:
    of = torch.tensor(values, dtype=torch.float64)
    return float(of.mean()), float(of.std() / math.sqrt(len(of))) if len(of) > 1 else math.nan
