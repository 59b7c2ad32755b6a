"""A model whose answer to a sample depends on chance, or on the other samples, is told from one that does not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from distill.core.signals import Batch
from distill.core.steadiness import apart, why_unsteady


def asked(compute: Callable[[Tensor], Tensor], rows: int = 6, dtype: torch.dtype = torch.float32) -> Any:
    x = torch.randn(rows, 5, 8, generator=torch.Generator().manual_seed(0)).to(dtype)
    return why_unsteady(lambda batch: compute(batch.inputs["x"]), Batch({"x": x}))


ENCODER = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval()
NORM = nn.Sequential(nn.BatchNorm1d(5), nn.Linear(8, 3)).eval()


@pytest.mark.parametrize(
    ("compute", "why"),
    [
        (ENCODER, None),
        (NORM, None),
        (lambda x: F.dropout(x.sum(1), 0.5, training=False), None),
        (lambda x: F.dropout(x.sum(1)), "random"),
        (lambda x: x.mean(1) + 1e-3 * torch.randn(len(x), 8), "random"),
        (lambda x: x - x.mean(0), "mixes"),
        (lambda x: F.batch_norm(x, None, None, training=True), "mixes"),
        (lambda x: x.flatten(1).softmax(0), "mixes"),
        (lambda x: x.sum(1).log(), None),  # of which half is not a number, each time the same
        (lambda x: x.sum(1).squeeze(0), None),  # by itself it has another shape
        (lambda x: 1 / 0 if len(x) == 1 else x, None),
    ],
)
def test_what_an_answer_depends_on_is_found(compute: Callable[[Tensor], Tensor], why: str | None) -> None:
    with torch.no_grad():
        assert asked(compute) == why


def test_half_precision_and_a_single_sample_are_not_accused() -> None:
    weight = torch.randn(8, 300)
    assert asked(lambda x: x @ weight.to(x.dtype), dtype=torch.bfloat16) is None
    assert asked(lambda x: x - x.mean(0), rows=1) is None
    assert asked(lambda x: x - x.mean(0), dtype=torch.bfloat16) == "mixes"


def test_answers_are_as_far_apart_as_their_largest_difference_is() -> None:
    one = torch.tensor([4.0, -8.0, torch.nan])
    assert apart(one, one) == 0
    assert apart(one, one + torch.tensor([0.0, 2.0, 0.0])) == 0.25
    assert apart(one, torch.tensor([4.0, torch.nan, 1.0])) == torch.inf


def test_as_much_is_found_of_answers_that_are_compared_in_parts() -> None:
    one = torch.zeros(3 * 2**20 + 5)
    one[7] = -8.0
    other = one.clone()
    other[-1] = 2.0
    assert apart(one, other) == 0.25


def test_nothing_longer_than_float32_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: Any, **__: Any) -> Tensor:
        raise TypeError("Cannot convert a MPS Tensor to float64 dtype")

    monkeypatch.setattr(Tensor, "double", refused)
    assert asked(lambda x: F.dropout(x.sum(1))) == "random"
    assert asked(lambda x: x.sum(1)) is None


@pytest.mark.parametrize("mask", [torch.finfo(torch.float32).min, -1e4, -torch.inf])
@pytest.mark.parametrize("noise", [0.3, 0.0])
def test_a_masked_class_hides_no_noise(mask: float, noise: float) -> None:
    def answer(x: Tensor) -> Tensor:
        logits = x.sum(1) + noise * torch.rand(len(x), 8)
        return logits.masked_fill(torch.arange(8) == 3, mask)

    assert asked(answer) == ("random" if noise else None)


def test_one_answer_near_zero_is_not_said_to_mix() -> None:
    def kernel(x: Tensor) -> Tensor:  # whose sums are in another order where a sample is alone
        logits = torch.tensor([1e-4, -2.0, 1.5, 3.0])[: len(x)]
        return logits + (2**-11 if len(x) == 1 else 0.0)

    assert asked(kernel, rows=4) is None
    assert asked(lambda x: kernel(x) + (1.0 if len(x) == 1 else 0.0), rows=4) == "mixes"


def test_a_number_that_is_the_whole_batchs_stays() -> None:
    batch = Batch({"x": torch.ones(6, 64)}, extras={"scale": torch.tensor(2.0), "each": torch.arange(6)})
    cut = [batch.first(2), batch.rows([4, 1]), batch.repeated(2), *batch.parts(4)]
    assert [one.extras["scale"].item() for one in cut] == [2.0] * 5
    assert [one.extras["each"].tolist() for one in cut[:2]] == [[0, 1], [4, 1]]
    assert why_unsteady(lambda some: F.dropout(some.inputs["x"] * some.extras["scale"]), batch) == "random"
