"""What the bits depend on besides configuration, data and models is recorded, compared, and reported."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from distill.run.conditions import _processor, conditions, other_conditions

CPU = torch.device("cpu")


def test_where_nothing_has_changed_nothing_is_reported() -> None:
    assert other_conditions({"conditions": conditions(CPU)}, CPU) == ""
    assert other_conditions({}, CPU) == ""  # of a version that did not say
    assert other_conditions({"conditions": "\x1b"}, CPU) == ""


def test_what_makes_other_bits_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    began, threads = {"conditions": conditions(CPU)}, torch.get_num_threads()
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "DEFAULT")
    monkeypatch.setattr("distill.run.conditions._build", lambda: "another")
    torch.set_num_threads(threads + 1)
    torch.use_deterministic_algorithms(True)
    try:
        told = other_conditions(began, CPU)
    finally:
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(False)
    assert f"threads {threads + 1} instead of {threads}" in told
    assert "instructions DEFAULT instead of " in told
    assert "build of torch another instead of " in told
    assert "limits ONEDNN_MAX_CPU_ISA=AVX2 instead of none" in told
    assert "deterministic algorithms yes instead of no" in told
    assert "processor" not in told


def test_of_a_processor_its_maker_and_what_libraries_choose_by_are_reported(tmp_path: Path) -> None:
    file = tmp_path / "cpuinfo"
    file.write_text("vendor_id\t: GenuineIntel\nflags\t\t: fpu sse2 avx2 fma avx512f avx512_vnni amx_tile hypervisor\n")
    assert _processor(file) == "GenuineIntel amx_tile avx2 avx512_vnni avx512f fma"
    file.write_text("Features\t: fp asimd sve\n")
    assert _processor.__wrapped__(file).endswith(" asimd sve")


def test_what_an_older_checkpoint_did_not_say_is_no_change() -> None:
    device = torch.device("cpu")
    began = conditions(device)
    del began[next(iter(began))]
    assert other_conditions({"conditions": began}, device) == ""
