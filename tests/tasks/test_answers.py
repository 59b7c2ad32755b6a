"""Answers in their contexts: how data gives them, where they stand, the most likely one, and what it scores."""

import math
import re
import string
from collections import Counter

import numpy as np
import pytest
import torch

from distill.tasks.answer_scores import PerQuestion, answer_scores
from distill.tasks.answers import LONGEST, Place, best_spans, given_answers, place, span_within


@pytest.mark.parametrize(
    ("value", "start", "answers"),
    [
        ({"text": ["a", "b"], "answer_start": [1, 2]}, None, [("a", 1), ("b", 2)]),
        ({"text": [], "answer_start": []}, None, []),
        ([{"text": "a", "answer_start": 1}], None, [("a", 1)]),
        ([], None, []),
        (["a", "b"], [1, 2], [("a", 1), ("b", 2)]),
        ("a", 3, [("a", 3)]),
        ("a", None, [("a", None)]),
        (None, None, None),
        (" ", None, None),
        ({"text": None, "answer_start": None}, None, None),
    ],
)
def test_every_layout_gives_texts_with_their_places(value, start, answers):
    assert given_answers(value, start) == answers


@pytest.mark.parametrize(
    ("value", "start", "why"),
    [
        ({"text": ["a"], "answer_start": [1, 2]}, None, "1 texts and 2 places"),
        ({"text": [""], "answer_start": [0]}, None, "text ''"),
        ({"text": [7], "answer_start": [0]}, None, "text 7"),
        ("a", "3", "place '3'"),
        ("a", 0.5, "place 0.5"),
    ],
)
def test_what_is_no_answer_is_refused(value, start, why):
    with pytest.raises(ValueError, match=why):
        given_answers(value, start)


def test_an_answer_is_taken_where_it_is_said_to_stand_or_else_where_it_stands_once():
    assert place("an ox and an owl", "an", 10) == Place(10, "an", False)
    assert place("an ox and an owl", "owl", 3) == Place(13, "owl", True)
    assert place("an ox and an owl", "owl", None) == Place(13, "owl", True)
    assert place("an ox and an owl", "owl", -1) == Place(13, "owl", True)
    with pytest.raises(ValueError, match="several times, and not at 1"):
        place("an ox and an owl", "an", 1)
    with pytest.raises(ValueError, match="does not stand in its context"):
        place("an ox and an owl", "cat", 0)


def test_a_window_holds_an_answer_wholly_or_not_at_all():
    # "[CLS] who [SEP] ann has a cat" with two letters to the token "ca", "t"
    starts, ends = np.array([0, 0, 0, 0, 4, 8, 10, 12]), np.array([0, 3, 0, 3, 7, 9, 12, 13])
    inside = np.array([0, 0, 0, 1, 1, 1, 1, 1], bool)
    assert span_within(Place(8, "a cat", False), starts, ends, inside) == (5, 7)
    assert span_within(Place(0, "ann", False), starts, ends, inside) == (3, 3)
    assert span_within(Place(11, "a", False), starts, ends, inside) == (6, 6)  # a piece of a token is the token
    assert span_within(Place(12, "t.", False), starts, ends, inside) is None
    assert span_within(Place(0, "ann", False), starts, ends, inside & (np.arange(8) > 3)) is None


def naive_best(start, end, inside):
    """Every pair of positions, one by one."""
    pairs = [
        (start[i] + end[j], i, j)
        for i in range(len(start))
        for j in range(i, min(i + LONGEST, len(start)))
        if inside[i] and inside[j]
    ]
    return max(pairs, key=lambda pair: pair[0]) if pairs else (-math.inf, 0, 0)


def test_the_best_span_is_that_of_all_pairs():
    torch.manual_seed(0)
    start, end = torch.randn(7, 45), torch.randn(7, 45)
    inside = torch.rand(7, 45) > 0.3
    inside[-1] = False
    start[0, 3], end[0, 40], inside[0] = 9.0, 9.0, True  # 38 tokens apart: too long
    score, first, last = best_spans(start, end, inside)
    for row in range(7):
        expected = naive_best(start[row].tolist(), end[row].tolist(), inside[row].tolist())
        assert (first[row], last[row]) == expected[1:]
        assert float(score[row]) == pytest.approx(expected[0], abs=1e-6)
    assert last[0] - first[0] < LONGEST


def plain(text):
    """As SQuAD's own script: small letters, no punctuation, no articles, single blanks."""
    text = "".join(c for c in text.lower() if c not in string.punctuation)
    return re.sub(r"\b(a|an|the)\b", " ", text).split()


def by_script(answer, reference):
    ours, theirs = plain(answer), plain(reference)
    same = sum((Counter(ours) & Counter(theirs)).values())
    f1 = 2 * same / (len(ours) + len(theirs)) if ours and theirs else float(ours == theirs)
    return float(ours == theirs), f1


@pytest.mark.parametrize(
    ("answer", "references"),
    [
        ("The red hat!", ["blue", "red hat"]),
        ("two red hats", ["red hat", "hats of red", "red"]),
        ("", ["hat"]),
        ("hat", []),
        ("", []),
        ("9 a.m.", ["9 am"]),
    ],
)
def test_scores_are_those_of_squads_script(answer, references):
    pairs = [by_script(answer, reference) for reference in references or [""]]
    expected = max(em for em, _ in pairs), max(f1 for _, f1 in pairs)
    assert answer_scores(answer, references) == pytest.approx(expected, abs=1e-6)


def rows(*windows):
    """Question, window, certainty, value, none, unanswered."""
    return torch.tensor(windows, dtype=torch.float64).unbind(1)


WINDOWS = [
    (0, 0, -2.0, 0.25, -1.0, 0.0),
    (0, 1, -0.5, 0.75, -3.0, 0.0),  # the most certain window of question 0, and no answer is least likely there
    (2, 0, -1.0, 0.5, -0.5, 1.0),  # question 2 has no answer
    (3, 0, -1.0, 0.0, -1.5, 0.0),
    (3, 1, -1.0, 1.0, -1.5, 0.0),  # as certain as the window before it
]
VALUES = [0.75, 1.0, 0.0]


def test_a_question_has_the_answer_of_its_most_certain_window():
    metric = PerQuestion()
    metric.update(*rows(*WINDOWS))
    assert metric.of_questions().tolist() == VALUES
    assert float(metric.compute()) == pytest.approx(np.mean(VALUES))
    assert float(metric.standard_error) == pytest.approx(np.std(VALUES) / 3**0.5)


def test_windows_may_come_in_any_order_in_any_batch_and_twice():
    metric = PerQuestion()
    metric.update(*rows(WINDOWS[4], WINDOWS[1]))
    metric.update(*(torch.zeros(0) for _ in range(6)))
    metric.update(*rows(WINDOWS[3], WINDOWS[2], WINDOWS[0], WINDOWS[1]))
    assert metric.of_questions().tolist() == VALUES


def test_of_nothing_there_is_no_score():
    metric = PerQuestion()
    metric.update(*(torch.zeros(0) for _ in range(6)))
    assert metric.compute().isnan()
