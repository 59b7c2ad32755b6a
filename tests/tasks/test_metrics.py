"""Standard errors of scores, against what is known of them and what leaving one sample out gives."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from distill.tasks.metrics import BitsPerByte, Perplexity, Ratio


def drawn() -> tuple[Tensor, Tensor]:
    """Nats and bytes of 400 samples; long ones have more of both."""
    generator = torch.Generator().manual_seed(0)
    sizes = torch.randint(1, 40, (400,), generator=generator).double()
    return sizes * (0.7 + 0.2 * torch.randn(400, generator=generator, dtype=torch.float64)), sizes


def test_of_a_share_it_is_that_of_the_binomial_distribution() -> None:
    metric = Ratio()
    metric.update(torch.arange(200) < 60, torch.ones(200))
    assert float(metric.compute()) == pytest.approx(0.3)
    assert float(metric.standard_error) == pytest.approx(math.sqrt(0.3 * 0.7 / 200))


@pytest.mark.parametrize(
    ("kind", "score"),
    [(Ratio, lambda r: r), (Perplexity, math.exp), (BitsPerByte, lambda r: r / math.log(2))],
    ids=lambda one: getattr(one, "__name__", ""),
)
def test_of_a_ratio_of_sums_it_is_what_leaving_one_sample_out_gives(kind: type[Ratio], score: object) -> None:
    nats, sizes = drawn()
    metric = kind()
    for part in torch.arange(400).chunk(7):
        metric.update(nats[part], sizes[part])
    metric.compute()
    without = [score(float((nats.sum() - x) / (sizes.sum() - y))) for x, y in zip(nats, sizes, strict=True)]
    left_out = torch.tensor(without, dtype=torch.float64)
    jackknife = ((len(left_out) - 1) / len(left_out) * (left_out - left_out.mean()).square().sum()).sqrt()
    assert float(metric.standard_error) == pytest.approx(float(jackknife), rel=0.01)
