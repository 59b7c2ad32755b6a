"""How near a text that was written comes to the one that is expected."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch

__all__ = ["DEFAULT_SCORES", "TEXT_SCORES", "TextScore", "chrf", "text_scores"]

_ORDER, _BETA = 6, 2
_Found = tuple[float, float]


class TextScore(NamedTuple):
    """A score of texts that were written.

    Attributes:
        means: What it is, in words.
        of: Texts written and expected -> the score over all of them, and its standard error; NaN where it has none.
    """

    means: str
    of: Callable[[Sequence[str], Sequence[str]], _Found]


def text_scores(
    written: Sequence[str], expected: Sequence[str], names: Sequence[str] | None = None
) -> dict[str, tuple[float, float]]:
    """Scores of :data:`TEXT_SCORES`, each with its standard error over the texts.

    Args:
        written: One text or more.
        expected: As many.
        names: Of the scores; :data:`DEFAULT_SCORES` if not given.
    """
    return {name: TEXT_SCORES[name].of(written, expected) for name in names or DEFAULT_SCORES}


def rouge(key: str) -> Callable[[Sequence[str], Sequence[str]], _Found]:
    """The mean over the texts of F1 = 2 P R / (P + R), of what both have over what is written and what is expected.

    That is the longest common subsequence of words (``rougeL``), or runs of one or two of them. Words are letters and
    digits of any script, in lower case.

    Reference:
        Lin: ROUGE: A Package for Automatic Evaluation of Summaries, 2004.
    """

    def of(written: Sequence[str], expected: Sequence[str]) -> _Found:
        from torchmetrics.functional.text import rouge_score

        pairs = zip(written, expected, strict=True)
        each = [rouge_score(*pair, rouge_keys=key, normalizer=_words, tokenizer=str.split) for pair in pairs]
        return _mean([float(found[f"{key}_fmeasure"]) for found in each])

    return of


def bleu(written: Sequence[str], expected: Sequence[str]) -> _Found:
    """Corpus BLEU of runs of 1 to 4 tokens as sacrebleu cuts them (``13a``), 0 to 1; it has no standard error here.

    Reference:
        Papineni et al.: BLEU: a Method for Automatic Evaluation of Machine Translation, ACL 2002.
        Post: A Call for Clarity in Reporting BLEU Scores, WMT 2018.
    """
    from torchmetrics.functional.text import sacre_bleu_score

    return float(sacre_bleu_score(written, [[text] for text in expected])), math.nan


def word_error_rate(written: Sequence[str], expected: Sequence[str]) -> _Found:
    """Words put in, left out or taken for others, over all texts, by the number of words that are expected.

    Of phonemes, or letters, with blanks between them it is the phoneme (letter) error rate. It may be above 1. Its
    standard error is that of a ratio of two sums, to first order.
    """
    from torchmetrics.functional.text import word_error_rate as rate

    pairs = [(ours, theirs, len(theirs.split())) for ours, theirs in zip(written, expected, strict=True)]
    # Where nothing is expected, each word that is written is an error, and torchmetrics divides by 0.
    edits = [round(float(rate(ours, theirs)) * count) if count else len(ours.split()) for ours, theirs, count in pairs]
    words, texts = sum(count for *_, count in pairs), len(pairs)
    if not words:
        return math.nan, math.nan
    score = sum(edits) / words
    squares = sum((edit - score * count) ** 2 for edit, (*_, count) in zip(edits, pairs, strict=True))
    return score, math.sqrt(squares * texts / (texts - 1)) / words if texts > 1 else math.nan


def exact_match(written: Sequence[str], expected: Sequence[str]) -> _Found:
    """The share of texts that are the expected one, white space around them left out."""
    return _mean([float(ours.strip() == theirs.strip()) for ours, theirs in zip(written, expected, strict=True)])


def _chrf(written: Sequence[str], expected: Sequence[str]) -> _Found:
    """Over all texts together; the standard error is that of the mean of the single texts'."""
    each = [chrf([ours], [theirs]) for ours, theirs in zip(written, expected, strict=True)]
    return chrf(written, expected), _mean(each)[1]


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


def _mean(values: Sequence[float]) -> _Found:
    of = torch.tensor(values, dtype=torch.float64)
    return float(of.mean()), float(of.std() / math.sqrt(len(of))) if len(of) > 1 else math.nan


TEXT_SCORES: dict[str, TextScore] = {
    "rouge_1": TextScore("F1 of words, 0 to 1", rouge("rouge1")),
    "rouge_2": TextScore("F1 of pairs of words, 0 to 1", rouge("rouge2")),
    "rouge_l": TextScore("F1 of the longest common subsequence of words, 0 to 1", rouge("rougeL")),
    "bleu": TextScore("BLEU-4 as sacrebleu has it, 0 to 1", bleu),
    "chrf": TextScore("F2 of runs of 1 to 6 letters, 0 to 1", _chrf),
    "word_error_rate": TextScore("words wrong, missing or too many, by those expected; 0 is best", word_error_rate),
    "exact_match": TextScore("answers that are the expected text, white space around it left out", exact_match),
}
"""Name -> the score; all but ``word_error_rate`` are better where they are larger."""

DEFAULT_SCORES = ("rouge_l", "chrf", "exact_match")
