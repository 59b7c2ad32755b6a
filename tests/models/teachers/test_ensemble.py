"""The promises of several teachers."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from distill.core.signals import Batch, Request
from distill.core.utils.errors import UserError
from distill.models.teachers import Ensemble, LiveTeacher
from distill.models.teachers.ensemble import weighted_mean
from distill.tasks import Plain

WEIGHTS = [1.0, 2.0, 5.0]


def teachers(classes: int = 5) -> list[LiveTeacher]:
    torch.manual_seed(0)
    return [LiveTeacher(nn.Linear(4, classes), Plain()) for _ in WEIGHTS]


def batch(ids: list[int] | None = None) -> Batch:
    return Batch(inputs={"input": torch.randn(3, 4, generator=torch.Generator().manual_seed(0))}, ids=ids)


def logits(source: Ensemble | LiveTeacher, ids: list[int] | None = None) -> Tensor:
    found = source.signals(batch(ids), Request(logits=True)).logits
    assert found is not None
    return found


def test_weights_count_in_proportion() -> None:
    found = weighted_mean([torch.tensor([0.0, 4.0]), torch.tensor([8.0, 0.0])], [1.0, 3.0])
    assert found.tolist() == [6.0, 1.0]


def test_the_logits_are_the_weighted_mean() -> None:
    sources = teachers()
    expected = torch.zeros(3, 5, dtype=torch.float64)
    for source, weight in zip(sources, WEIGHTS, strict=True):
        expected += weight / 8 * logits(source).double()
    torch.testing.assert_close(logits(Ensemble(sources, WEIGHTS)).double(), expected, rtol=1e-6, atol=1e-6)
    evaluated = Ensemble(sources, WEIGHTS).evaluate(batch()).logits
    assert evaluated is not None
    assert torch.equal(evaluated, logits(Ensemble(sources, WEIGHTS)))


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_the_prediction_is_the_geometric_mean_at_every_temperature(temperature: float) -> None:
    sources = teachers()
    product = torch.ones(3, 5, dtype=torch.float64)
    for source, weight in zip(sources, WEIGHTS, strict=True):
        product *= (logits(source).double() / temperature).softmax(-1) ** (weight / 8)
    expected = product / product.sum(-1, keepdim=True)
    found = (logits(Ensemble(sources, WEIGHTS)).double() / temperature).softmax(-1)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_only_the_ratio_of_the_weights_counts_and_none_are_equal_weights() -> None:
    sources = teachers()
    assert torch.equal(logits(Ensemble(sources, [2.0, 4.0, 10.0])), logits(Ensemble(sources, WEIGHTS)))
    assert torch.equal(logits(Ensemble(sources)), logits(Ensemble(sources, [3.0] * 3)))


def test_half_precision_logits_are_averaged_in_float32() -> None:
    sources = [LiveTeacher(nn.Linear(4, 5).bfloat16(), Plain()) for _ in range(2)]
    inputs = Batch(inputs={"input": torch.randn(3, 4).bfloat16()})
    found = Ensemble(sources).signals(inputs, Request(logits=True)).logits
    assert found is not None
    assert found.dtype == torch.float32


@pytest.mark.parametrize(
    "request_",
    [
        Request(logits=True, hidden_states=frozenset({1})),
        Request(attentions=frozenset({1})),
        Request(taps=frozenset("a")),
    ],
)
def test_what_has_no_common_space_is_refused(request_: Request) -> None:
    with pytest.raises(UserError, match="no common space"):
        Ensemble(teachers()).signals(batch(), request_)


@pytest.mark.parametrize("weight", [0.0, -1.0, float("nan"), float("inf")])
def test_a_weight_must_be_greater_than_0(weight: float) -> None:
    with pytest.raises(UserError, match=r"model\.teacher\.1\.weight"):
        Ensemble(teachers(), [1.0, weight, 1.0])


def test_as_many_weights_as_teachers() -> None:
    with pytest.raises(UserError, match="3 teachers need as many weights"):
        Ensemble(teachers(), [1.0])
    with pytest.raises(UserError, match="needs a teacher"):
        Ensemble([])


def test_padding_of_the_wider_vocabulary_is_left_out() -> None:
    narrow, wide = teachers(4)[0], teachers(6)[0]
    both = Ensemble([narrow, wide])
    with pytest.raises(UserError, match="the teachers have 4, 6 outputs, and nothing says that these are the same"):
        logits(both)
    both.one_vocabulary = True  # as found where the tokenizers are the same
    found = logits(both)
    torch.testing.assert_close(found, (logits(narrow) + logits(wide)[:, :4]) / 2)


def test_the_memory_of_every_teacher_is_saved_and_comes_back() -> None:
    first = Ensemble(teachers(), WEIGHTS)
    expected = logits(first, [1, 2, 3])
    second = Ensemble(teachers(), WEIGHTS)
    second.load_state_dict(first.state_dict())
    calls: list[int] = []
    for model in second.models:
        model.register_forward_hook(lambda *_: calls.append(1))
    assert torch.equal(logits(second, [1, 2, 3]), expected)
    assert not calls


def test_the_fingerprint_depends_on_every_teacher_and_weight() -> None:
    sources = teachers()
    first = Ensemble(sources, WEIGHTS).fingerprint
    assert Ensemble(teachers(), WEIGHTS).fingerprint == first
    others = [Ensemble(sources[::-1], WEIGHTS), Ensemble(sources, [1.0, 2.0, 4.0]), Ensemble(sources[:2], WEIGHTS[:2])]
    assert len({first, *(other.fingerprint for other in others)}) == 4
