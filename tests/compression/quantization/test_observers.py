"""The promises of the ranges that static inputs are rounded by."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import pytest
import torch

from distill.compression.quantization.observers import (
    batch_range,
    dynamic_qparams,
    followed,
    input_qparams,
    reduce_over_ranks,
    unseen,
    widest,
)
from distill.compression.quantization.scheme import ActivationScheme


def scheme(observer: str, **settings: object) -> ActivationScheme:
    return ActivationScheme(observer=observer, **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("observer", ["minmax", "moving_average"])
def test_smallest_and_largest_of_a_batch(observer: str) -> None:
    x = torch.randn(4, 5, 6)
    assert batch_range(x, scheme(observer)).tolist() == [x.min(), x.max()]
    assert batch_range(x.bfloat16(), scheme(observer)).dtype is torch.float32


@pytest.mark.parametrize("percentile", [90.0, 99.0, 100.0])
def test_percentile_leaves_so_many_values_outside(percentile: float) -> None:
    x = torch.randn(40, 25)
    low, high = batch_range(x, scheme("percentile", percentile=percentile)).tolist()
    ordered = np.sort(x.numpy().ravel())
    out = round(1000 * (100 - percentile) / 100)
    assert low == ordered[out]
    assert high == ordered[999 - out]


def test_mse_finds_the_shrunken_range_of_least_error() -> None:
    x = torch.cat([torch.randn(2000), torch.tensor([40.0])]).view(-1, 3)
    chosen = scheme("mse", bits=4, symmetric=True)
    low, high = batch_range(x, chosen).double().tolist()

    def error(end: float) -> float:
        step = end / 7
        values = x.double().numpy().ravel()
        return float(((np.clip(np.rint(values / step), -7, 7) * step - values) ** 2).sum())

    assert high < 40
    largest = float(x.abs().max())
    assert error(max(-low, high)) <= min(error(largest * part / 25) for part in range(1, 26)) * (1 + 1e-6)


def test_large_batches_are_sampled_with_all_their_features() -> None:
    x = torch.randn(512, 128)
    x[:, 77] += 50.0  # one feature far out, as transformers have them
    x[384:, 5] -= 50.0
    low, high = batch_range(x, scheme("percentile", percentile=99.9)).tolist()
    assert high > 45
    assert low < -45


def test_minmax_keeps_the_widest_and_an_average_moves_by_its_momentum() -> None:
    batches = [torch.tensor([-1.0, 2.0]), torch.tensor([-3.0, 1.0]), torch.tensor([-0.5, 0.5])]
    kept, moved = unseen(), unseen()
    for batch in batches:
        kept = followed(kept, batch, scheme("minmax"))
        moved = followed(moved, batch, scheme("moving_average", momentum=0.25))
    assert kept.tolist() == [-3.0, 2.0]
    low, high = -1.0, 2.0
    for batch in batches[1:]:
        low, high = low + 0.25 * (float(batch[0]) - low), high + 0.25 * (float(batch[1]) - high)
    np.testing.assert_allclose(moved.numpy(), [low, high], rtol=1e-6)


@pytest.mark.parametrize("observer", ["minmax", "moving_average"])
def test_a_range_in_double_precision_follows_like_any_other(observer: Literal["minmax", "moving_average"]) -> None:
    scheme = ActivationScheme(observer=observer, momentum=0.5)
    found = followed(torch.tensor([-1.0, 1.0]).double(), torch.tensor([-3.0, 2.0]), scheme)
    assert found.tolist() == ([-3.0, 2.0] if observer == "minmax" else [-2.0, 1.5])


@pytest.mark.parametrize("observer", ["minmax", "moving_average", "percentile", "mse"])
def test_a_batch_that_was_not_seen_changes_nothing(observer: str) -> None:
    before = torch.tensor([-1.0, 2.0])
    assert torch.equal(followed(before, unseen(), scheme(observer)), before)
    assert followed(unseen(), unseen(), scheme(observer)).tolist() == [math.inf, -math.inf]
    assert torch.equal(followed(unseen(), before, scheme(observer)), before)


def test_parts_of_a_batch_join_to_its_range() -> None:
    x = torch.randn(6, 5)
    parts = [batch_range(part, scheme("minmax")) for part in x.split(2)]
    assert torch.equal(widest(widest(parts[0], parts[1]), parts[2]), batch_range(x, scheme("minmax")))
    assert reduce_over_ranks(parts) == parts, "alone there is nothing to reduce"


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", [8, 4])
def test_the_range_lies_on_the_integers(symmetric: bool, bits: int) -> None:
    chosen = ActivationScheme(bits=bits, symmetric=symmetric)
    scale, zero_point = input_qparams(torch.tensor([-1.0, 3.0]), chosen)
    if symmetric:
        assert float(zero_point) == 0
        assert float(scale) == pytest.approx(3 / (2 ** (bits - 1) - 1))
    else:
        assert float(scale) == pytest.approx(4 / (2**bits - 1))
        assert float(zero_point) == round((2**bits - 1) / 4)


def test_a_dynamic_scale_is_each_tokens_own() -> None:
    x = torch.randn(3, 4, 8) * torch.tensor([1.0, 10.0, 100.0])[:, None, None]
    scale, zero_point = dynamic_qparams(x, ActivationScheme(kind="dynamic"), (-1,))
    assert scale.shape == zero_point.shape == (3, 4, 1)
    for i, j in ((0, 0), (2, 3)):
        low, high = min(0.0, float(x[i, j].min())), max(0.0, float(x[i, j].max()))
        assert float(scale[i, j]) == pytest.approx((high - low) / 255)


OBSERVERS = ["minmax", "moving_average", "percentile", "mse"]


@pytest.mark.parametrize("observer", OBSERVERS)
def test_padding_is_left_out_however_much_there_is_and_whatever_stands_there(observer: str) -> None:
    lengths, generator = [6, 2, 1, 4], torch.Generator().manual_seed(0)
    rows = [torch.randn(length, 3, generator=generator) for length in lengths]
    alone = batch_range(torch.cat(rows), scheme(observer))
    for width in (6, 9):
        tokens = torch.arange(width) < torch.tensor(lengths)[:, None]
        x = torch.full((4, width, 3), math.nan)
        x[tokens] = torch.cat(rows)
        assert torch.equal(batch_range(x, scheme(observer), tokens), alone)
        assert torch.equal(batch_range(x.flatten(0, 1), scheme(observer), tokens), alone)
    pooled = torch.randn(4, 3, generator=generator)  # one vector a sample
    assert torch.equal(batch_range(pooled, scheme(observer), tokens), batch_range(pooled, scheme(observer)))


@pytest.mark.parametrize("observer", OBSERVERS)
def test_what_is_called_with_nothing_has_seen_nothing(observer: str) -> None:
    nothing = unseen()
    assert torch.equal(batch_range(torch.empty(0, 3), scheme(observer)), nothing)
    assert torch.equal(batch_range(torch.empty(2, 0, 3), scheme(observer)), nothing)
    all_padding = torch.zeros(2, 5, dtype=torch.bool)
    assert torch.equal(batch_range(torch.randn(2, 5, 3), scheme(observer), all_padding), nothing)
