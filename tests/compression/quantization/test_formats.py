"""The promises of formats whose levels are not evenly spaced."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import distill
from distill.compression.quantization.formats import centroids, float_levels, levels, scales
from distill.compression.quantization.layers import quantize_layer, quantized_layers
from distill.compression.quantization.ptq import quantize
from distill.compression.quantization.scheme import _FORMATS, LayerScheme, WeightScheme, usual
from distill.compression.quantization.starts.settings import Start
from distill.compression.quantization.storage import pack, rebuild, unpack
from distill.compression.quantization.weights import fake_quantize_rows, grid, integers_of, values_of
from distill.core.utils.errors import UserError
from distill.models import saved_student

E2M1 = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0]
"""All values of e2m1 that are not negative, as the OCP's specification lists them."""


def scheme(name: str, bits: int | None = None, granularity: str = "channel") -> WeightScheme:
    width, size = usual(name)
    size = size or (8 if granularity == "group" else None)
    granularity = "group" if size else granularity
    return WeightScheme(bits=bits or width, granularity=granularity, group_size=size, format=name)  # type: ignore[arg-type]


FORMATS = [scheme(name, bits) for name, (widths, _) in _FORMATS.items() for bits in {widths[0], widths[-1]}]


@pytest.mark.parametrize(("name", "dtype"), [("fp8_e4m3", torch.float8_e4m3fn), ("fp8_e5m2", torch.float8_e5m2)])
def test_small_floats_are_those_of_torch(name: str, dtype: torch.dtype) -> None:
    top = torch.finfo(dtype).max
    x = torch.randn(4000, generator=torch.Generator().manual_seed(0)) * torch.logspace(-9, 6, 4000)
    every = torch.arange(256, dtype=torch.uint8).view(dtype).float()
    every = every[every.isfinite()]
    middles = (levels(name, 8)[1:] + levels(name, 8)[:-1]) / 2  # ties: to even
    for values in (x, every, middles):
        assert torch.equal(float_levels(values, name), values.clamp(-top, top).to(dtype).float())
    assert torch.equal(levels(name, 8), every.unique())


def test_all_sixteen_values_of_e2m1() -> None:
    assert levels("fp4", 4).tolist() == sorted({-x for x in E2M1} | set(E2M1))
    ties = torch.tensor([0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0, 7.0])
    assert float_levels(ties, "fp4").tolist() == [0.0, 1.0, 1.0, 2.0, 2.0, 4.0, 4.0, 6.0]


def test_levels_of_powers_of_two() -> None:
    assert levels("pot", 4).tolist() == sorted({0.0, *(s * 2.0**-k for k in range(7) for s in (1, -1))})
    # Li et al., 4 bits: of 8 levels that are not negative 1/16 ... 5/8, of which the largest is 1 once scaled.
    a, b = (0, 1 / 2, 1 / 4, 1 / 16), (0, 1 / 8)
    theirs = sorted({(x + y) / (5 / 8) for x, y in itertools.product(a, b)})
    apot = levels("apot", 4)
    assert torch.allclose(apot[apot >= 0] / apot[-1], torch.tensor(theirs))
    assert [len(levels("apot", bits)) for bits in (3, 4, 5, 7)] == [7, 15, 31, 127]


def test_blocks_of_mxfp4_share_a_power_of_two_and_those_of_nvfp4_an_fp8() -> None:
    rows = torch.randn(3, 64, generator=torch.Generator().manual_seed(0)).exp()
    mx = grid(rows, scheme("mxfp4")).scale
    peak = rows.unflatten(1, (2, 32)).amax(-1)  # type: ignore[no-untyped-call]
    assert torch.equal(mx, 2.0 ** (peak.log2().floor() - 2))
    nv = grid(rows, scheme("nvfp4")).scale
    whole = rows.max() / (6 * 448)
    blocks = rows.unflatten(1, (4, 16)).amax(-1)  # type: ignore[no-untyped-call]
    torch.testing.assert_close(nv, (blocks / 6 / whole).to(torch.float8_e4m3fn).float() * whole)


@pytest.mark.parametrize("of", FORMATS, ids=lambda s: f"{s.format}-{s.bits}")
def test_every_weight_goes_to_the_nearest_level_and_its_code_says_which(of: WeightScheme) -> None:
    rows = torch.randn(4, 64, generator=torch.Generator().manual_seed(1))
    rows[:, ::5] = 0
    at = grid(rows, of)
    fake = fake_quantize_rows(rows, at, of)
    codes = integers_of(rows, at, of)
    assert torch.equal(values_of(codes, at, of), fake)
    assert torch.equal(integers_of(fake, at, of), codes)
    assert bool((fake[rows == 0] == 0).all())
    if of.bits <= 8:
        half = 2 ** (of.bits - 1)
        assert bool(((codes >= -half) & (codes < half)).all())
    if of.format in ("fp16", "bf16"):
        half_type = torch.float16 if of.format == "fp16" else torch.bfloat16
        assert torch.equal(fake, rows.to(half_type).float())
        return
    table = at.scale if of.format == "kmeans" else None
    for row in range(4):
        for j in range(64):
            block = 0 if of.group_size is None else j // of.group_size
            if table is not None:
                choices = table[row]
            else:
                scale = at.scale[row] if of.group_size is None else at.scale[row, block]
                choices = levels(of.format, of.bits) * scale
            assert abs(fake[row, j] - rows[row, j]) <= (choices - rows[row, j]).abs().min() * (1 + 1e-5) + 1e-7


@pytest.mark.parametrize("granularity", ["tensor", "channel", "group"])
def test_clusters_are_those_of_lloyd_with_one_at_zero(granularity: str) -> None:
    of = scheme("kmeans", 2, granularity)
    rows = torch.randn(3, 16, generator=torch.Generator().manual_seed(0))
    table = centroids(rows if granularity != "group" else rows.unflatten(1, (2, 8)), of)  # type: ignore[no-untyped-call]
    blocks = {"tensor": rows.reshape(1, -1), "channel": rows, "group": rows.reshape(6, 8)}[granularity]
    for block, found in zip(blocks, table.reshape(-1, 4), strict=True):
        nearest = (block[:, None] - found).abs().argmin(1)
        for one in range(4):
            mine = block[nearest == one]
            if one == 2:
                assert found[one] == 0
            elif len(mine):
                torch.testing.assert_close(found[one], mine.mean())


def test_a_centroid_has_the_sum_of_its_members_gradients() -> None:
    layer = quantize_layer(nn.Linear(16, 3), LayerScheme(weights=scheme("kmeans", 2)))
    layer.mode = "fake"
    upstream = torch.randn(3, 16, generator=torch.Generator().manual_seed(1))
    weight = layer.quantized_weight()
    weight.backward(upstream)
    assert layer.weight_scale.dim() == 1, "optimizers let nothing decay that has one dimension"
    gradient, table = layer.weight_scale.grad.view(3, 4), layer.weight_scale.detach().view(3, 4)  # type: ignore[union-attr]
    for row in range(3):
        for one in range(4):
            members = weight[row].detach() == table[row, one]
            expected = 0.0 if one == 2 else float(upstream[row][members].sum())
            assert float(gradient[row, one]) == pytest.approx(expected, abs=1e-6)
    assert torch.equal(layer.parameter.grad, upstream)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["nf4", "kmeans", "fp8_e4m3", "bf16", "nvfp4"])
def test_a_student_is_saved_and_loaded_to_the_bit_as_values_and_as_codes(
    name: str, tmp_path: Path, bert: Callable[..., Any], tokens: Tensor
) -> None:
    for store in ("float", "integers"):
        model = bert()
        steps = quantize(model, weights=scheme(name), embeddings=scheme(name), store=store)  # type: ignore[arg-type]
        saved_student.save(model, tmp_path / store, steps=steps)
        loaded = distill.load(tmp_path / store)
        assert torch.equal(loaded(tokens).logits, model(tokens).logits)
    packed = pack(model.state_dict(), model)
    fresh = bert(1)
    rebuild(fresh, json.loads(json.dumps(steps[0])))
    fresh.load_state_dict(unpack(packed, fresh))
    for layer, other in zip(quantized_layers(fresh).values(), quantized_layers(model).values(), strict=True):
        assert torch.equal(layer.integers(), other.integers())


def test_looked_up_rows_are_those_of_the_whole_table() -> None:
    ids = torch.tensor([[3, 0, 5]])
    for name in ("nf4", "nvfp4", "kmeans", "mxfp4"):
        layer = quantize_layer(nn.Embedding(7, 32), LayerScheme(weights=scheme(name)))
        layer.mode = "fake"
        assert torch.equal(layer(ids), layer.quantized_weight()[ids])


def test_what_a_format_does_not_have_is_refused() -> None:
    for settings, said in (
        ({"format": "nf4"}, "nf4 has 4 bits"),
        ({"format": "nf5"}, "must be one of int, nf4"),
        ({"format": "mxfp4", "bits": 4}, "mxfp4 has groups of 32"),
        ({"format": "apot", "bits": 4, "learned": True}, "has no effect with format: apot"),
    ):
        with pytest.raises(UserError, match=said):
            WeightScheme(**settings)  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"start\.method = 'gptq': rounds to evenly spaced values, and format nf4"):
        quantize(
            nn.Sequential(nn.Linear(4, 4)),
            [torch.ones(2, 4)],
            weights=scheme("nf4"),
            start=Start(method="gptq"),
            include=["."],
        )


def test_the_largest_weight_of_a_block_is_the_largest_level() -> None:
    rows = torch.randn(3, 16, generator=torch.Generator().manual_seed(0))
    for name in ("nf4", "pot", "apot", "fp4", "fp8_e4m3"):
        of = scheme(name)
        torch.testing.assert_close(scales(rows, of) * levels(name, of.bits)[-1], rows.abs().amax(1))
