"""ROUGE-L, chrF and exact match against their definitions: a loop, and sacrebleu."""

from __future__ import annotations

import math
import re
from statistics import stdev

import pytest
import sacrebleu

from distill.tasks.text_scores import DEFAULT_SCORES, TEXT_SCORES, text_scores

WRITTEN = ["the cat sat on the mat", "Привет, мир", "", "return 41", "a_b C", "same text\n"]
EXPECTED = ["the mat is where the cat sat", "привет большой мир!", "nothing", "return 42 ", "a b c d", " same text"]


def common(a: list[str], b: list[str]) -> int:
    """Length of the longest common subsequence."""
    if not a or not b:
        return 0
    if a[0] == b[0]:
        return 1 + common(a[1:], b[1:])
    return max(common(a[1:], b), common(a, b[1:]))


def words(text: str) -> list[str]:
    return re.findall(r"[^\W_]+", text.lower())


def rouge_l(ours: str, theirs: str) -> float:
    a, b = words(ours), words(theirs)
    shared = common(a, b)
    return 2 * shared / (len(a) + len(b)) if shared else 0.0


def test_the_scores_are_those_of_their_definitions() -> None:
    scores = text_scores(WRITTEN, EXPECTED)
    each = [rouge_l(*pair) for pair in zip(WRITTEN, EXPECTED, strict=True)]
    mean = sum(each) / 6
    assert scores["rouge_l"][0] == pytest.approx(mean)
    assert scores["rouge_l"][1] == pytest.approx(math.sqrt(sum((x - mean) ** 2 for x in each) / 5 / 6))
    assert scores["chrf"][0] == pytest.approx(sacrebleu.corpus_chrf(WRITTEN, [EXPECTED]).score / 100)
    single = [
        sacrebleu.sentence_chrf(ours, [theirs]).score / 100 for ours, theirs in zip(WRITTEN, EXPECTED, strict=True)
    ]
    assert scores["chrf"][1] == pytest.approx(stdev(single) / math.sqrt(6))
    assert scores["exact_match"][0] == pytest.approx(1 / 6)
    assert tuple(scores) == DEFAULT_SCORES
    assert text_scores(["a"], ["a"])["rouge_l"][0] == 1.0
    assert math.isnan(text_scores(["a"], ["a"])["exact_match"][1])


def distance(a: list[str], b: list[str]) -> int:
    """Words to put in, to leave out or to change, the fewest that make ``b`` of ``a``."""
    if not a or not b:
        return len(a) + len(b)
    changed = distance(a[1:], b[1:]) + (a[0] != b[0])
    return min(changed, distance(a[1:], b) + 1, distance(a, b[1:]) + 1)


def test_errors_are_counted_over_all_words() -> None:
    pairs = [(ours.split(), theirs.split()) for ours, theirs in zip(WRITTEN, EXPECTED, strict=True)]
    edits, counts = [distance(*pair) for pair in pairs], [len(theirs) for _, theirs in pairs]
    rate = sum(edits) / sum(counts)
    score, error = text_scores(WRITTEN, EXPECTED, ["word_error_rate"])["word_error_rate"]
    assert score == pytest.approx(rate)
    residuals = [e - rate * n for e, n in zip(edits, counts, strict=True)]
    assert error == pytest.approx(math.sqrt(6 * stdev(residuals) ** 2) / sum(counts))
    assert text_scores(["a b"], [""], ["word_error_rate"])["word_error_rate"][0] != 0  # not a number
    assert text_scores(["a b", "c"], ["", "c"], ["word_error_rate"])["word_error_rate"][0] == 2.0


def test_bleu_is_that_of_sacrebleu_and_rouge_counts_runs_of_words() -> None:
    scores = text_scores(WRITTEN[:2] * 3, EXPECTED[:2] * 3, ["bleu", "rouge_1", "rouge_2"])
    assert scores["bleu"][0] == pytest.approx(
        sacrebleu.corpus_bleu(WRITTEN[:2] * 3, [EXPECTED[:2] * 3], smooth_method="none").score / 100
    )
    assert math.isnan(scores["bleu"][1])
    # the x2, cat, sat, mat of 6 and 7 words; a word of 2 and 3
    assert scores["rouge_1"][0] == pytest.approx((2 * 5 / 13 + 2 * 2 / 5) / 2)
    assert scores["rouge_2"][0] == pytest.approx((2 * 3 / 11 + 0) / 2)
    assert all(one.means for one in TEXT_SCORES.values())


def test_what_is_quite_wrong_counts() -> None:
    wrong = ["abcdefgh", "xyzxyzxyz"], ["abcdefgh", "nothing at all"]
    assert text_scores(*wrong)["chrf"][0] == pytest.approx(sacrebleu.corpus_chrf(wrong[0], [wrong[1]]).score / 100)
    assert text_scores(["", "xyz"], ["nothing", "at all"])["chrf"][0] == 0.0
