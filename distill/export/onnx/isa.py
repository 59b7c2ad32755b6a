"""How the weights of an integer model are stored, so that the target's integer products are exact.

Without VNNI, x86 multiplies unsigned activations with signed weights by ``vpmaddubsw``, which adds two products in 16
bits with saturation: 2 · 255 · |w| fits as long as |w| <= 64. A model trained in that range (7 bits) is stored as int8
everywhere; one that uses all 8 bits is stored for such targets as unsigned weights with zero point 128, whose products
are widened first: exact as well, and slower.
"""

from __future__ import annotations

import platform
from pathlib import Path

from distill.core.utils.errors import UserError, nearest

__all__ = ["ISAS", "SAFE", "check_isa", "host_isa", "weight_type"]

ISAS = ("avx2", "vnni", "arm")

SAFE = 64
"""The largest magnitude of a signed weight whose products never saturate: 2 · 255 · 64 < 2¹⁵."""


def check_isa(isa: str) -> str:
    """``isa`` if there is such a target.

    Raises:
        UserError: if not.
    """
    if isa not in ISAS:
        raise UserError("no such target", key="--isa", value=isa, hint=nearest(isa, ISAS))
    return isa


def host_isa(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """The target that this machine is; ``avx2``, the careful choice, where that is not known."""
    if platform.machine().lower() in ("aarch64", "arm64"):
        return "arm"
    flags = cpuinfo.read_text(encoding="utf-8") if cpuinfo.is_file() else ""
    return "vnni" if {"avx512_vnni", "avx_vnni"} & set(flags.split()) else "avx2"


def weight_type(isa: str, largest: int) -> str:
    """``int8`` or ``uint8``: how weights of at most ``largest`` in magnitude are stored for ``isa``."""
    return "uint8" if isa == "avx2" and largest > SAFE else "int8"
