"""What language models are judged by, computed a block of positions at a time."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from distill.core import token_scores
from distill.core.lazy_logits import Curve, LazyLogits
from distill.core.signals import IGNORE, Batch, Signals
from distill.core.token_scores import TokenScores


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(token_scores, "_BLOCK", 4 * 31)


def logits(seed: int, width: int = 31) -> LazyLogits:
    generator = torch.Generator().manual_seed(seed)
    hidden, weight = torch.randn(2, 9, 8, generator=generator), torch.randn(width, 8, generator=generator)
    return LazyLogits(hidden, weight, torch.randn(width, generator=generator), Curve(scale=0.5, cap=4.0))


MASK = torch.tensor([[True] * 6 + [False] * 3, [True] * 9])


def batch(mask: Tensor | None = MASK) -> Batch:
    labels = torch.randint(31, (2, 9), generator=torch.Generator().manual_seed(4))
    labels[0, 2] = IGNORE
    return Batch({"input_ids": labels}, labels, mask)


@pytest.mark.parametrize("mask", [MASK, None], ids=["masked", "all"])
@pytest.mark.parametrize("lazy", [True, False])
def test_scores_are_those_of_probabilities_written_out(mask: Tensor | None, lazy: bool) -> None:
    student, teacher, given = logits(0), logits(1), batch(mask)
    of = [Signals(lazy_logits=one) if lazy else Signals(one.whole()) for one in (student, teacher)]
    scores = TokenScores.of(of[0], given, of[1])
    q, p = (one.whole().double().exp() / one.whole().double().exp().sum(-1, keepdim=True) for one in (student, teacher))
    assert given.labels is not None
    assert scores.acceptance is not None
    for row in range(2):
        for at in range(9):
            counts = mask is None or bool(mask[row, at])
            label = int(given.labels[row, at])
            nats = -q[row, at, label].log().item() if counts and label != IGNORE else 0.0
            assert scores.nats[row, at].item() == pytest.approx(nats, rel=1e-5, abs=1e-6)
            assert scores.predicted[row, at].item() == (int(q[row, at].argmax()) if counts else 0)
            common = sum(min(float(a), float(b)) for a, b in zip(p[row, at], q[row, at], strict=True))
            assert scores.acceptance[row, at].item() == pytest.approx(common if counts else 0.0, rel=1e-5)
    assert scores.width == 31
    assert not scores.undefined.any()


def test_a_student_that_says_what_the_teacher_says_is_always_accepted() -> None:
    same = Signals(lazy_logits=logits(0))
    acceptance = TokenScores.of(same, batch(None), same).acceptance
    assert acceptance is not None
    torch.testing.assert_close(acceptance, torch.ones(2, 9))


def test_tokens_that_only_a_padded_teacher_has_are_never_proposed() -> None:
    scores = TokenScores.of(Signals(lazy_logits=logits(0)), batch(None), Signals(lazy_logits=logits(1, width=35)))
    assert scores.acceptance is not None
    assert bool((scores.acceptance <= 1 + 1e-6).all())


def test_a_position_with_a_logit_that_is_no_number_is_found() -> None:
    student = logits(0)
    student.hidden[1, 4] = torch.nan
    scores = TokenScores.of(Signals(lazy_logits=student), batch(None))
    assert scores.undefined.nonzero().tolist() == [[1, 4]]
    assert scores.acceptance is None


def test_of_no_position_all_is_0() -> None:
    scores = TokenScores.of(Signals(lazy_logits=logits(0)), batch(torch.zeros(2, 9, dtype=torch.bool)), None)
    assert not scores.nats.any()
    assert not scores.predicted.any()
