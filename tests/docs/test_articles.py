"""The equations of docs/articles.md, as articles print them, in numpy's double precision, beside our code."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from distill.compression.pruning.criteria import Magnitude, Movement, Wanda
from distill.compression.pruning.schedule import SparsitySchedule
from distill.compression.pruning.unit_choice import count_at, lowest
from distill.compression.quantization.fake import fake_quantize, fake_quantize_learned, lsq_gradient_factor
from distill.compression.quantization.observers import batch_range, followed, input_qparams
from distill.compression.quantization.scheme import ActivationScheme, WeightScheme
from distill.compression.quantization.weights import fake_quantize_rows, grid, initial_scale, integers_of
from distill.compression.structure.low_rank import factorize, rank_of_energy, saves
from distill.losses.cross_entropy import cross_entropy
from distill.losses.hint import hint_mse
from distill.losses.hinton import hinton_kl
from distill.losses.l1 import l1_norm
from distill.losses.reverse import reverse_kl

PAGE = (Path(__file__).parents[2] / "docs/articles.md").read_text(encoding="utf-8")
BITS = (2, 3, 4, 5, 8, 16)


def drawn(*shape: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).normal(0.1, 1.0, shape)


def tensor(array: Any) -> torch.Tensor:
    return torch.from_numpy(np.array(array, dtype=np.float64))


def softmax(x: Any) -> Any:
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


@pytest.mark.parametrize("bits", BITS)
def test_min_max_is_the_asymmetric_scheme_and_its_shift_changes_no_value(bits: int) -> None:
    x = drawn(16, 8)
    scale = (x.max() - x.min()) / (2**bits - 1)
    zero_point = np.round(-x.min() / scale)
    q = np.clip(np.round(x / scale) + zero_point, 0, 2**bits - 1)
    scheme = WeightScheme(bits=bits, granularity="tensor", symmetric=False)  # type: ignore[arg-type]
    at = grid(tensor(x), scheme)
    np.testing.assert_allclose(fake_quantize_rows(tensor(x), at, scheme), scale * (q - zero_point), atol=1e-12)
    shift = 2 ** (bits - 1)
    np.testing.assert_array_equal(integers_of(tensor(x), at, scheme), q - shift)
    inputs = ActivationScheme(bits=bits, observer="minmax")  # type: ignore[arg-type]
    rounded = fake_quantize(tensor(x), *input_qparams(tensor([x.min(), x.max()]), inputs), inputs.bounds)
    np.testing.assert_allclose(rounded, scale * (q - zero_point), atol=1e-12)


@pytest.mark.parametrize("bits", BITS)
def test_absolute_maximum_is_the_symmetric_scheme(bits: int) -> None:
    x, most = drawn(16, 8), 2 ** (bits - 1) - 1
    q = np.round(x / np.abs(x).max() * most)
    scheme = WeightScheme(bits=bits, granularity="tensor")  # type: ignore[arg-type]
    at = grid(tensor(x), scheme)
    assert at.zero_point is None
    np.testing.assert_array_equal(integers_of(tensor(x), at, scheme), q)
    np.testing.assert_allclose(fake_quantize_rows(tensor(x), at, scheme), q * np.abs(x).max() / most, atol=1e-12)


def test_scales_are_a_tensors_a_channels_or_a_groups() -> None:
    x = drawn(6, 16)
    for granularity, size, parts in (
        ("tensor", None, x.reshape(1, -1)),
        ("channel", None, x),
        ("group", 8, x.reshape(-1, 8)),
    ):
        scheme = WeightScheme(granularity=granularity, group_size=size)  # type: ignore[arg-type]
        np.testing.assert_allclose(grid(tensor(x), scheme).scale.flatten(), np.abs(parts).max(-1) / 127, rtol=1e-12)


def test_zero_stays_zero_whatever_the_zero_point() -> None:
    x = np.abs(drawn(4, 8)) + 3.0
    x[0, 0] = 0.0
    scheme = WeightScheme(bits=4, symmetric=False)
    assert fake_quantize_rows(tensor(x), grid(tensor(x), scheme), scheme)[0, 0] == 0


def test_observers_choose_ranges_as_articles_do() -> None:
    first, second = drawn(64, 8), drawn(64, 8, seed=1)

    def seen(**settings: Any) -> Any:
        scheme = ActivationScheme(**settings)
        before, after = (batch_range(tensor(x).float(), scheme) for x in (first, second))
        return followed(before, after, scheme).numpy()

    low, high = min(first.min(), second.min()), max(first.max(), second.max())
    np.testing.assert_allclose(seen(observer="minmax"), [low, high], rtol=1e-6)
    moved = [a + 0.2 * (b - a) for a, b in ((first.min(), second.min()), (first.max(), second.max()))]
    np.testing.assert_allclose(seen(observer="moving_average", momentum=0.2), moved, rtol=1e-6)
    percentile = batch_range(tensor(first).float(), ActivationScheme(observer="percentile", percentile=90.0)).numpy()
    np.testing.assert_allclose(percentile, np.percentile(first, [10, 90], method="nearest"), atol=0.05)

    def error(range_: Any) -> float:
        scale = (range_[1] - range_[0]) / 15
        zero = np.round(-range_[0] / scale)
        return float(((scale * (np.clip(np.round(first / scale) + zero, 0, 15) - zero) - first) ** 2).sum())

    least = batch_range(tensor(first).float(), ActivationScheme(observer="mse", bits=4)).numpy()
    tried = [np.array([first.min(), first.max()]) * part / 25 for part in range(1, 26)]
    assert error(least) == pytest.approx(min(map(error, tried)), rel=1e-4)


def test_the_gradient_passes_straight_through_where_nothing_is_clipped() -> None:
    x = torch.tensor([-9.0, -0.3, 0.0, 0.7, 9.0], dtype=torch.float64, requires_grad=True)
    scale, zero = torch.tensor(0.5, dtype=torch.float64), torch.tensor(0.0, dtype=torch.float64)
    fake_quantize(x, scale, zero, (-7, 7)).sum().backward()  # type: ignore[no-untyped-call]
    assert x.grad is not None
    assert x.grad.tolist() == [0.0, 1.0, 1.0, 1.0, 0.0]


def test_learned_steps_start_round_and_learn_as_lsq_prints_it() -> None:
    x, bound = drawn(3, 8), 7
    scheme = WeightScheme(bits=4, granularity="tensor", learned=True)
    start = 2 * np.abs(x).mean() / math.sqrt(bound)
    assert float(initial_scale(tensor(x), scheme)) == pytest.approx(start)
    scale = tensor(start).requires_grad_()
    factor = lsq_gradient_factor(x.size, bound)
    rounded = fake_quantize_learned(tensor(x), scale, bound, factor)
    np.testing.assert_allclose(rounded.detach(), start * np.clip(np.round(x / start), -bound, bound))
    rounded.sum().backward()  # type: ignore[no-untyped-call]
    t = x / start
    slope = np.where(t <= -bound, -bound, np.where(t >= bound, bound, np.round(t) - t)).sum()
    assert float(scale.grad) == pytest.approx(slope / math.sqrt(x.size * bound))  # type: ignore[arg-type]


def test_alpha_kl_and_one_minus_alpha_cross_entropy() -> None:
    s, t, y, alpha, temperature = drawn(5, 4), drawn(5, 4, seed=1), np.array([0, 3, 1, 2, 0]), 0.7, 2.0
    p, q = softmax(t / temperature), softmax(s / temperature)
    kl = (p * np.log(p / q)).sum(-1).mean()
    hard = -np.log(softmax(s)[np.arange(5), y]).mean()
    expected = alpha * temperature**2 * kl + (1 - alpha) * hard
    soft_sum = hinton_kl(tensor(s), tensor(t), temperature)
    found = alpha * soft_sum / 5 + (1 - alpha) * cross_entropy(tensor(s), torch.tensor(y)) / 5
    assert float(found) == pytest.approx(expected)
    torchs = nn.functional.kl_div(tensor(np.log(q)), tensor(p), reduction="batchmean")
    assert float(soft_sum) / 5 == pytest.approx(temperature**2 * float(torchs))
    with pytest.warns(UserWarning, match="support size"):
        mean = nn.functional.kl_div(tensor(np.log(q)), tensor(p), reduction="mean")
    assert float(mean) == pytest.approx(float(torchs) / 4), "and what divides by the classes too is smaller"


def test_the_directions_of_the_divergence_are_as_the_classes_are_named() -> None:
    s, t = drawn(3, 6), drawn(3, 6, seed=1)
    p, q = softmax(t), softmax(s)
    assert float(hinton_kl(tensor(s), tensor(t))) == pytest.approx((p * np.log(p / q)).sum())
    assert float(reverse_kl(tensor(s), tensor(t))) == pytest.approx((q * np.log(q / p)).sum())


def test_hints_are_the_mean_square_through_a_map() -> None:
    student, teacher, regressor = drawn(1, 5, 3), drawn(1, 5, 4, seed=1), drawn(3, 4, seed=2)
    mapped = student @ regressor
    weights = torch.full((1, 5), 1 / 5, dtype=torch.float64)
    expected = ((mapped - teacher) ** 2).mean()
    assert float(hint_mse(tensor(mapped), tensor(teacher), weights)) == pytest.approx(expected)


def test_magnitude_keeps_the_largest_and_a_threshold_is_a_sparsity() -> None:
    weight, threshold = drawn(8, 8), 0.5
    module = nn.Linear(8, 8)
    module.weight.data = tensor(weight)
    score = Magnitude().score(module).flatten()
    sparsity = (np.abs(weight) < threshold).mean()
    pruned = lowest(score, count_at(float(sparsity), 64))
    np.testing.assert_array_equal(pruned.reshape(8, 8), np.abs(weight) < threshold)
    half = lowest(score, count_at(0.5, 64))
    np.testing.assert_array_equal(np.sort(np.abs(weight).ravel())[32:], np.sort(score[~half]))


def test_l1_is_the_sum_of_absolute_values() -> None:
    assert float(l1_norm([tensor(drawn(3, 4)), tensor(drawn(5))])) == pytest.approx(
        np.abs(drawn(3, 4)).sum() + np.abs(drawn(5)).sum()
    )


def test_wanda_weighs_a_weight_by_its_input() -> None:
    module = nn.Linear(4, 3)
    criterion = Wanda()
    criterion.prepare(module, "it")
    square = tensor(drawn(4) ** 2).float()
    module.input_square.copy_(square)  # type: ignore[operator]
    expected = np.abs(module.weight.detach().numpy()) * np.sqrt(square.numpy())
    np.testing.assert_allclose(criterion.score(module), expected, rtol=1e-6)


def test_movement_adds_up_minus_weight_times_gradient() -> None:
    module, criterion = nn.Linear(3, 2), Movement()
    criterion.prepare(module, "it")
    expected = np.zeros((2, 3))
    for step in range(3):
        module.weight.grad = tensor(drawn(2, 3, seed=step)).float()
        expected -= module.weight.detach().numpy() * module.weight.grad.numpy()
        criterion.learn(module)
    np.testing.assert_allclose(criterion.score(module), expected, rtol=1e-5)


def test_the_cubic_schedule_is_zhu_and_guptas() -> None:
    initial, final, start, span, every = 0.1, 0.8, 20, 100, 5
    schedule = SparsitySchedule(initial=initial, final=final, begin=start, end=start + span, every=every)
    for step in range(start, start + span + 1, every):
        expected = final + (initial - final) * (1 - (step - start) / span) ** 3
        assert schedule(step, 200) == pytest.approx(expected)


def test_low_rank_is_the_truncated_decomposition() -> None:
    weight = drawn(6, 8)
    u, s, v = np.linalg.svd(weight)
    down, up = factorize(tensor(weight).float(), 2)
    np.testing.assert_allclose(up @ down, (u[:, :2] * s[:2]) @ v[:2], atol=1e-5)
    assert [saves(6, 8, rank) for rank in (3, 4)] == [rank * (6 + 8) < 6 * 8 for rank in (3, 4)]
    part = np.cumsum(s**2) / (s**2).sum()
    assert rank_of_energy(torch.from_numpy(s), 0.9) == int(np.argmax(part >= 0.9)) + 1


def test_every_equation_of_the_page_is_one_of_these() -> None:
    equations = re.findall(r"```text\n(.*?)```", PAGE, re.S)
    assert len(equations) == 13, "a new equation wants a test here"
