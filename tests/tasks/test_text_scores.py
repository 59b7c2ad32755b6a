"""ROUGE-L, chrF and exact match against their definitions: a loop, and sacrebleu."""

from __future__ import annotations

import math
import re
from statistics import stdev

import pytest
import sacrebleu

from distill.tasks.text_scores import MEANS, text_scores

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
    assert scores.keys() == MEANS.keys()
    assert text_scores(["a"], ["a"])["rouge_l"][0] == 1.0
    assert math.isnan(text_scores(["a"], ["a"])["exact_match"][1])


def test_what_is_quite_wrong_counts() -> None:
    wrong = ["abcdefgh", "xyzxyzxyz"], ["abcdefgh", "nothing at all"]
    assert text_scores(*wrong)["chrf"][0] == pytest.approx(sacrebleu.corpus_chrf(wrong[0], [wrong[1]]).score / 100)
    assert text_scores(["", "xyz"], ["nothing", "at all"])["chrf"][0] == 0.0
