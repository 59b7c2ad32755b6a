"""Integers are stored so that the target multiplies them exactly."""

from __future__ import annotations

from pathlib import Path

import pytest

from distill.core.utils.errors import UserError
from distill.export.onnx.isa import SAFE, check_isa, host_isa, weight_type


def test_two_products_of_safe_weights_fit_into_16_bits_and_of_no_larger_ones() -> None:
    assert 2 * 255 * SAFE <= 2**15 - 1 < 2 * 255 * (SAFE + 1)


@pytest.mark.parametrize(
    ("isa", "largest", "stored"),
    [("avx2", 63, "int8"), ("avx2", 64, "int8"), ("avx2", 65, "uint8"), ("vnni", 127, "int8"), ("arm", 127, "int8")],
)
def test_only_full_range_weights_for_avx2_are_unsigned(isa: str, largest: int, stored: str) -> None:
    assert weight_type(isa, largest) == stored


@pytest.mark.parametrize(
    ("flags", "isa"),
    [("fpu avx2 fma", "avx2"), ("avx2 avx512_vnni", "vnni"), ("avx2 avx_vnni", "vnni"), ("avx_vnni_int8", "avx2")],
)
def test_the_processor_says_what_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flags: str, isa: str) -> None:
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    (tmp_path / "cpuinfo").write_text(f"processor: 0\nflags\t\t: {flags}\n")
    assert host_isa(tmp_path / "cpuinfo") == isa


def test_a_machine_that_does_not_tell_is_taken_for_the_least(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "AMD64")
    assert host_isa(tmp_path / "none") == "avx2"
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    assert host_isa(tmp_path / "none") == "arm"


def test_an_unknown_target_is_refused_with_the_nearest() -> None:
    with pytest.raises(UserError, match=r"--isa = 'avx512': no such target.*avx2"):
        check_isa("avx512")
