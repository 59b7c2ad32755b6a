"""Blocks of integers, against the reader of the package gguf and by hand."""

from __future__ import annotations

import numpy as np
import pytest
from gguf import GGMLQuantizationType
from gguf.quants import dequantize

from distill.export.gguf.blocks import form_of, packed, scales_by_block


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 7, 8])
def test_blocks_hold_the_very_integers(bits: int) -> None:
    largest = 2 ** (bits - 1) - 1
    generator = np.random.default_rng(bits)
    integers = generator.integers(-largest, largest + 1, (6, 96)).astype(np.int8)
    integers[0, :2] = -largest, largest
    scales = generator.uniform(0.01, 1, (6, 3)).astype(np.float16).astype(np.float32)  # which float16 holds
    form = form_of(bits)
    assert form == {2: "Q4_0", 3: "Q4_0", 4: "Q4_0", 5: "Q5_0"}.get(bits, "Q8_0")
    stored = packed(integers, scales, form)
    assert stored.shape == (6, 3 * {"Q4_0": 18, "Q5_0": 22, "Q8_0": 34}[form])
    expected = integers * scales.repeat(32, 1)
    np.testing.assert_array_equal(dequantize(stored, GGMLQuantizationType[form]), expected)


def test_wider_integers_have_no_block() -> None:
    assert form_of(16) is None


def test_a_scale_that_is_shared_by_more_is_that_of_each_of_its_blocks() -> None:
    one, outputs = np.float32(0.5).reshape(()), np.array([1, 2], np.float32)
    groups = np.array([[1, 2], [3, 4]], np.float32)
    for scale, expected in (
        (one, [[0.5, 0.5], [0.5, 0.5]]),
        (outputs, [[1, 1], [2, 2]]),
        (groups, [[1, 2], [3, 4]]),
        (np.array([[1], [2]], np.float32), [[1, 1], [2, 2]]),
    ):
        found = scales_by_block(scale, (2, 64))
        assert found is not None
        np.testing.assert_array_equal(found, expected)
    assert scales_by_block(np.ones((2, 4), np.float32), (2, 64)) is None  # groups of 16
    assert scales_by_block(np.ones((2, 2), np.float32), (2, 96)) is None  # of 48
    assert scales_by_block(outputs, (2, 48)) is None
