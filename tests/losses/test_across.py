"""Losses between models of different tokenizers, against plain loops over the tokens' texts in float64."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import AutoTokenizer

from distill.core.lazy_logits import Curve, LazyLogits
from distill.core.signals import IGNORE, TEACHER_AT, Batch, Signals
from distill.core.token_paths import TokenPaths
from distill.core.utils.errors import UserError
from distill.core.utils.paths import resolve
from distill.losses import CrossEntropy, SharedVocabularyKL, UniversalLogitDistillation, blockwise, head_terms
from distill.losses.across import AcrossTokenizers
from distill.losses.shared_vocabulary import SharedTokens, of_spellings, shared_tokens, shared_vocabulary_kl
from distill.losses.universal_logit import universal_logit_distance

# Texts of two vocabularies by id; "$" is the end of text, and "<x>" is special.
OURS = ["$", "a", "b", "in", "é", "zz"]
THEIRS = ["b", "$", "ing", "in", "a", "<x>", "q", "an"]
BEGINS = {"ing": "in", "an": "a"}


def softmax(row: Any, temperature: float) -> Any:
    powers = [math.exp(x / temperature) for x in row]
    return [x / sum(powers) for x in powers]


def sorted_distance(student: Any, teacher: Any, t: float) -> float:
    total = 0.0
    for s, z in zip(student, teacher, strict=True):
        q, p = (sorted(softmax(row, t), reverse=True) for row in (s, z))
        size = max(len(q), len(p))
        for a, b in zip(q + [0.0] * (size - len(q)), p + [0.0] * (size - len(p)), strict=True):
            total += t * abs(a - b)
    return total


def shared_kl(student: Any, teacher: Any, t: float, beginnings: bool) -> float:
    """Over texts: each of the teacher's tokens is put where its text, or its beginning, is the student's."""
    named = {text: text for text in THEIRS if text in OURS} | (BEGINS if beginnings else {})
    total = 0.0
    for s, z in zip(student, teacher, strict=True):
        q, p = dict(zip(OURS, softmax(s, t), strict=True)), dict(zip(THEIRS, softmax(z, t), strict=True))
        mass: dict[str, float] = {}
        for text, probability in p.items():
            event = named.get(text, "rest")
            mass[event] = mass.get(event, 0.0) + probability
        others = {text for text in OURS if text not in mass}
        for event, probability in mass.items():
            theirs = sum(q[text] for text in others) if event == "rest" else q[event]
            total += t**2 * probability * math.log(probability / theirs)
    return total


def mapped(beginnings: bool) -> tuple[SharedTokens, Tensor]:
    """The map of these vocabularies, written down by hand."""
    shared = [0, 1, 2, 3]
    events = [2, 0, 3 if beginnings else 4, 3, 1, 4, 4, 1 if beginnings else 4]
    return SharedTokens(torch.tensor(shared), torch.tensor(events)), torch.tensor([4, 5])


@pytest.mark.parametrize("temperature", [1.0, 2.5])
@pytest.mark.parametrize("widths", [(4, 7), (7, 4), (5, 5)])
def test_universal_logit_distillation_is_the_distance_of_sorted_probabilities(
    agrees: Any, temperature: float, widths: tuple[int, int]
) -> None:
    teacher = torch.randn(3, widths[1]).double()
    agrees(
        lambda s: universal_logit_distance(s, teacher, temperature),
        lambda s: sorted_distance(s, teacher.numpy(), temperature),
        torch.randn(3, widths[0]),
    )


@pytest.mark.parametrize("temperature", [1.0, 2.5])
@pytest.mark.parametrize("beginnings", [True, False])
def test_shared_vocabulary_kl_compares_tokens_by_their_texts(agrees: Any, temperature: float, beginnings: bool) -> None:
    teacher, (tokens, rest) = torch.randn(3, len(THEIRS)).double(), mapped(beginnings)
    agrees(
        lambda s: shared_vocabulary_kl(s, teacher, tokens, rest, temperature),
        lambda s: shared_kl(s, teacher.numpy(), temperature, beginnings),
        torch.randn(3, len(OURS)),
    )


SPELLED = {
    "$": ["$"],
    "in": ["in"],
    "ing": ["in", "g"],
    "inn": ["in", "n"],
    "ang": ["a", "n", "g"],
    "ans": ["a", "n", "$"],
}
NODES = {"in": 1, "a": 2, "an": 3}


def going_on(teacher: Tensor, since: str) -> dict[str, float]:
    """By texts: what follows ``since`` within the teacher's tokens, by the student's token that it begins with."""
    found: dict[str, float] = {}
    for text, p in zip([*SPELLED, "<x>"], softmax(teacher.tolist(), 1.5), strict=True):
        spelled = SPELLED.get(text, [])
        for n in range(1, len(spelled)):
            if "".join(spelled[:n]) == since:
                found[spelled[n]] = found.get(spelled[n], 0.0) + p
    return {text: p / sum(found.values()) for text, p in found.items()}


def test_within_a_token_the_teacher_says_how_it_goes_on(agrees: Any) -> None:
    ours = ["$", "a", "n", "in", "g", "zz"]
    spellings = [*(tuple(map(ours.index, pieces)) for pieces in SPELLED.values()), ()]
    tokens = of_spellings(TokenPaths(spellings, {(0, 3): 1, (0, 1): 2, (2, 2): 3}))
    teacher = torch.randn(4, len(SPELLED) + 1).double()
    since = ["in", "an", "a", "in"]

    def by_texts(student: Any) -> float:
        total = 0.0
        for s, z, read in zip(student, teacher, since, strict=True):
            q = dict(zip(ours, softmax(s, 1.5), strict=True))
            total += sum(1.5**2 * p * math.log(p / q[text]) for text, p in going_on(z, read).items())
        return total

    path = torch.tensor([NODES[read] for read in since])
    rest = torch.tensor([5])
    agrees(lambda s: shared_vocabulary_kl(s, teacher, tokens, rest, 1.5, path), by_texts, torch.randn(4, len(ours)))
    # Beside them, positions where both have read the same are what they are alone; ids beyond a narrower head are none.
    student = torch.randn(4, len(ours)).double()
    mixed = shared_vocabulary_kl(student, teacher, tokens, rest, 1.5, path * torch.tensor([1, 0, 1, 0]))
    parts = [(rows, path[rows] * on) for rows, on in (([0, 2], 1), ([1, 3], 0))]
    each = [shared_vocabulary_kl(student[r], teacher[r], tokens, rest, 1.5, at) for r, at in parts]
    torch.testing.assert_close(mixed, each[0] + each[1])
    narrow = teacher.clone()
    narrow[:, 5] = -torch.inf
    cut = narrow[:, :5]
    torch.testing.assert_close(
        shared_vocabulary_kl(student[:1], cut[:1], tokens, rest, path_N=path[:1]),
        shared_vocabulary_kl(student[:1], narrow[:1], tokens, rest, path_N=path[:1]),
    )


def test_a_student_without_other_tokens_gets_the_teachers_shared_ones_alone() -> None:
    """A bucket of nothing on its side would be an infinite divergence."""
    student, teacher = torch.randn(3, 2).double(), torch.randn(3, 4).double()
    tokens = SharedTokens(torch.tensor([0, 1]), torch.tensor([1, 2, 0, 2]))
    found = shared_vocabulary_kl(student, teacher, tokens, torch.tensor([], dtype=torch.long))
    q, p = student.softmax(-1), teacher[:, [2, 0]].softmax(-1)
    torch.testing.assert_close(found, (p * (p / q).log()).sum())


def test_the_rows_of_a_padded_teacher_are_no_tokens(agrees: Any) -> None:
    teacher, (tokens, rest) = torch.randn(2, len(THEIRS) + 3).double(), mapped(True)
    student = torch.randn(2, len(OURS)).double()
    padded = SharedTokens(tokens.student, torch.cat([tokens.events, torch.full((3,), 4)]))
    found = [shared_vocabulary_kl(student, teacher, one, rest) for one in (tokens, padded)]
    torch.testing.assert_close(*found)


# ---------------------------------------------------------------------- which tokens are shared


def test_a_word_counts_for_the_token_that_begins_it_within_a_text_of_sentencepiece(small_tokenizers: Any) -> None:
    student, teacher = small_tokenizers.spaced(120), small_tokenizers.byte_level(900)
    tokens, known, words = shared_tokens(student, teacher), set(student.get_vocab()), 0
    for number in range(len(teacher)):
        text = str(teacher.decode([number]))
        if text.startswith(" ") and text.isascii() and text[1:].isalpha() and text.replace(" ", "▁") not in known:
            within = student.convert_ids_to_tokens(student("x" + text, add_special_tokens=False)["input_ids"])
            found = student.convert_ids_to_tokens([int(tokens.student[tokens.events[number]])])
            assert found == [within[2]], (text, within)
            words += within[2] != "▁"
    assert words > 2


@pytest.fixture(scope="module")
def quickstart() -> Any:
    return AutoTokenizer.from_pretrained(resolve("distill:quickstart/tokenizer", "tokenizer"))


@pytest.mark.parametrize("kind", ["byte level", "spaced"])
def test_tokens_that_decode_to_one_text_are_shared_and_others_count_for_how_they_begin(
    kind: str, quickstart: Any, small_tokenizers: Any
) -> None:
    other = small_tokenizers.byte_level(500) if kind == "byte level" else small_tokenizers.spaced(120)

    def text(tokenizer: Any, number: int) -> str:
        # Behind another token, as SentencePiece's decoder takes the first space away.
        before = tokenizer("x", add_special_tokens=False)["input_ids"][-1]
        return str(tokenizer.decode([before, number]))[1:]

    equal, begun = (shared_tokens(quickstart, other, beginnings=beginnings) for beginnings in (False, True))
    names = {text(quickstart, number): number for number in range(1, len(quickstart))}
    seen = [0, 0]
    for number in range(len(other)):
        name = text(other, number)
        if number in other.all_special_ids or not name or "�" in name:
            continue
        for place, tokens in enumerate((equal, begun)):
            event = int(tokens.events[number])
            found = int(tokens.student[event]) if event < len(tokens.student) else None
            first = quickstart(name, add_special_tokens=False)["input_ids"][0]
            assert found == (names.get(name) if place == 0 or name in names else first)
            seen[place] += found is not None
    assert 0 < seen[0] < seen[1]
    assert equal.student[equal.events[other.eos_token_id]] == quickstart.eos_token_id  # the ends are one event


def test_tokenizers_that_share_nothing_are_refused(small_tokenizers: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from distill.losses import shared_vocabulary

    one = small_tokenizers.byte_level(300)
    tables = iter([[b"a"], [b"b"], [b"a"], [b"b"]])
    monkeypatch.setattr(shared_vocabulary, "token_bytes", lambda *_: next(tables))
    monkeypatch.setattr(shared_vocabulary, "shared_tokens", lambda *_, **__: mapped(True)[0])
    with pytest.raises(UserError, match="share no token"):
        SharedVocabularyKL().meet_tokenizers(one, one)


# ---------------------------------------------------------------------- the positions that are compared

B, T, H = 8, 6, 5


def losses() -> list[AcrossTokenizers]:
    kl = SharedVocabularyKL(temperature=1.5, weight=0.5)
    kl._tokens = mapped(True)[0]
    return [kl, UniversalLogitDistillation(weight=0.3)]


def case(seed: int = 0) -> tuple[LazyLogits, LazyLogits, Batch]:
    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    student = LazyLogits(random(B, T, H).requires_grad_(), random(len(OURS), H).requires_grad_(), None)
    teacher = LazyLogits(random(B, T, H), random(len(THEIRS), H), None, Curve(0.7, 3.0))
    labels = torch.randint(0, len(OURS), (B, T), generator=generator)
    mask = torch.rand(B, T, generator=generator) < 0.8
    at = torch.where(torch.rand(B, T, generator=generator) < 0.6, torch.arange(T), -1)
    at[2] = -1  # a sample without any partner
    batch = Batch({"input_ids": labels}, labels=labels.masked_fill(~mask, IGNORE), mask=mask, extras={TEACHER_AT: at})
    return student, teacher, batch


def as_a_loop(student: LazyLogits, teacher: LazyLogits, batch: Batch) -> tuple[float, float, int]:
    ours, theirs = student.whole().detach().numpy(), teacher.whole().numpy()
    kl = distance = 0.0
    compared = 0
    assert batch.mask is not None
    for b in range(B):
        for t in range(T):
            if batch.mask[b, t] and batch.extras[TEACHER_AT][b, t] >= 0:
                kl += shared_kl(ours[b, t : t + 1], theirs[b, t : t + 1], 1.5, True)
                distance += sorted_distance(ours[b, t : t + 1], theirs[b, t : t + 1], 1.0)
                compared += 1
    return kl, distance, compared


@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize("block", [2**18, 12])
def test_positions_count_that_have_a_partner_and_the_mean_is_over_all(
    monkeypatch: pytest.MonkeyPatch, lazy: bool, block: int
) -> None:
    monkeypatch.setattr(blockwise, "_CPU_BLOCK", block)
    student, teacher, batch = case()
    theirs = Signals(lazy_logits=teacher) if lazy else Signals(teacher.whole())
    kl, distance, compared = as_a_loop(student, teacher, batch)
    assert 0 < compared < batch.count
    for loss, expected in zip(losses(), (kl, distance), strict=True):
        found = loss(Signals(student.whole()), theirs, batch)
        np.testing.assert_allclose(found.total.item(), expected, rtol=1e-9)
        assert found.positions is batch.count


def test_eight_of_one_two_of_four_and_one_of_eight_give_one_gradient() -> None:
    expected: Any = None
    for size in (8, 4, 1):
        student, teacher, batch = case()
        total, count = torch.zeros((), dtype=torch.float64), 0
        for part, rows in zip(batch.parts(size), range(0, B, size), strict=True):
            ours, theirs = (Signals(of.whole()[rows : rows + size]) for of in (student, teacher))
            for loss in losses():
                summed, positions = loss(ours, theirs, part)
                total = total + loss.weight(0, 1) * summed
            count += int(positions)
        (total / count).backward()
        found = [student.hidden.grad, student.weight.grad]
        expected = expected or found
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-15)


def test_a_student_whose_logits_are_never_there_gets_the_same_values_and_gradients(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(head_terms, "_BLOCK", 7 * len(OURS))
    monkeypatch.setattr(head_terms, "_CPU_ROWS", 3 * len(OURS))
    terms = [CrossEntropy(weight=0.7), *losses()]
    student, teacher, batch = case()
    total, sums = head_terms.head_terms(terms, student, teacher, batch)
    total.backward()
    plain, _, _ = case()
    signals = Signals(plain.whole()), Signals(teacher.whole())
    each = [loss(*signals, batch).total for loss in terms]
    whole = sum(loss.weight(0, 1) * one for loss, one in zip(terms, each, strict=True))
    assert isinstance(whole, Tensor)
    whole.backward()
    torch.testing.assert_close(torch.stack(sums), torch.stack(each).detach())
    torch.testing.assert_close([student.hidden.grad, student.weight.grad], [plain.hidden.grad, plain.weight.grad])


def test_a_batch_without_partners_gives_zero_with_zero_gradient() -> None:
    student, teacher, batch = case()
    batch = replace(batch, extras={TEACHER_AT: torch.full((B, T), -1)})
    for loss in losses():
        found = loss(Signals(student.whole()), Signals(lazy_logits=teacher), batch)
        found.total.backward()
        assert found.total == 0
    assert student.hidden.grad is not None
    assert not student.hidden.grad.any()
