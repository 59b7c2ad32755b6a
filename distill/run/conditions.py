"""What the bits of a step depend on besides configuration, data and models: the machine, and how torch uses it."""

from __future__ import annotations

import hashlib
import os
import platform
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch

from distill.core.utils.visible import visible

__all__ = ["conditions", "other_conditions"]

_LIMITS = (
    "ATEN_CPU_CAPABILITY",
    "CUBLAS_WORKSPACE_CONFIG",
    "DNNL_MAX_CPU_ISA",
    "MKL_CBWR",
    "MKL_DEBUG_CPU_TYPE",
    "MKL_ENABLE_INSTRUCTIONS",
    "NVIDIA_TF32_OVERRIDE",
    "ONEDNN_MAX_CPU_ISA",
)
"""Variables by which libraries choose other instructions."""

_FLAGS = frozenset({"asimd", "avx2", "bf16", "fma", "sve", "sve2", "avx_vnni", "amx_bf16", "amx_int8", "amx_tile"})
_WIDE = "avx512"  # and what follows it


def conditions(device: torch.device) -> dict[str, str]:
    """What makes sums come out in another order, or rounded otherwise, by name.

    Args:
        device: That the student is trained on.
    """
    found = {
        "threads": str(torch.get_num_threads()),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "processor": _processor(),
        "build of torch": _build(),
        "limits": " ".join(f"{name}={os.environ[name]}" for name in _LIMITS if name in os.environ) or "none",
        "deterministic algorithms": _yes(torch.are_deterministic_algorithms_enabled()),
        "precision of matrix products": torch.get_float32_matmul_precision(),
    }
    if device.type == "cuda":
        cudnn = torch.backends.cudnn
        found["device"] = torch.cuda.get_device_name(device)
        version = cudnn.version()  # type: ignore[no-untyped-call]
        found["cuDNN"] = f"{version}, deterministic {_yes(cudnn.deterministic)}, tuned {_yes(cudnn.benchmark)}"
    return found


def other_conditions(checkpoint: Mapping[str, Any], device: torch.device) -> str:
    """What is otherwise than when ``checkpoint`` was saved; empty where nothing is."""
    began, now = checkpoint.get("conditions"), conditions(device)  # the first checkpoints did not say
    if not isinstance(began, Mapping):
        return ""
    changed = [name for name in now if name in began and began[name] != now[name]]
    return visible(", ".join(f"{name} {now[name]} instead of {str(began[name])[:200]}" for name in changed))


def _yes(flag: bool) -> str:
    return "yes" if flag else "no"


@cache
def _build() -> str:
    """The version that torch was built of, and a digest of how: its libraries, compiler and their options."""
    how = hashlib.sha256(torch.__config__.show().encode()).hexdigest()[:8]
    return f"{str(torch.version.git_version)[:12]} {how}"


@cache
def _processor(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """Who made it, and those of its instructions by which libraries choose their ways of computing."""
    text = cpuinfo.read_text(encoding="utf-8", errors="replace") if cpuinfo.is_file() else ""
    values = {line.partition(":")[0].strip(): line.partition(":")[2] for line in text.splitlines() if ":" in line}
    known = (values.get("flags") or values.get("Features") or "").split()
    flags = sorted({flag for flag in known if flag in _FLAGS or flag.startswith(_WIDE)})
    return " ".join([values.get("vendor_id", platform.machine()).strip(), *flags])
