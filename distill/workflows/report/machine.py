"""What a report was measured on, and whether it was quiet there."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from distill.export.onnx.isa import host_isa
from distill.workflows.report.costs import Machine

__all__ = ["Others", "cores", "machine", "watched"]

_LIBRARIES = ("torch", "transformers", "onnxruntime", "openvino")

BUSY = 0.1
"""Part of the cores that others may keep busy before it is said."""


@dataclass
class Others:
    """What other processes did.

    Attributes:
        cores: That they kept busy, on average; ``None`` where that is not known.
    """

    cores: float | None = None


def machine(others: Others) -> Machine:
    """This machine, and the libraries that are installed.

    Args:
        others: What they did while it was timed.
    """
    count = cores()
    return Machine(
        processor=_processor(),
        isa=host_isa(),
        instructions=torch.backends.cpu.get_cpu_capability(),
        cores=count,
        memory_bytes=_memory(),
        system=f"{platform.system()} {platform.release()}, Python {platform.python_version()}",
        versions={name: found for name in _LIBRARIES if (found := _version(name)) is not None},
        others=others.cores,
        busy=others.cores is not None and others.cores > BUSY * count,
    )


@contextmanager
def watched(stat: Path = Path("/proc/stat")) -> Iterator[Others]:
    """Find out how many of the cores that this process may use others kept busy, inside the block."""
    found, started = Others(), time.perf_counter()
    before, mine = _busy(stat), sum(os.times()[:4])
    yield found
    after, seconds = _busy(stat), time.perf_counter() - started
    if before is not None and after is not None and seconds > 0:
        found.cores = max(0.0, (after - before - (sum(os.times()[:4]) - mine)) / seconds)


def _busy(stat: Path) -> float | None:
    """Seconds that these cores have been at work since the machine started."""
    try:
        lines = stat.read_text(encoding="utf-8").splitlines()
        mine = {f"cpu{number}" for number in os.sched_getaffinity(0)}
        found = [[int(part) for part in line.split()[1:]] for line in lines if line.split()[0] in mine]
        # user, nice, system, idle, iowait, irq, softirq, steal; a guest's time is in the user's.
        return sum(sum(times[:3]) + sum(times[5:8]) for times in found) / os.sysconf("SC_CLK_TCK") if found else None
    except (OSError, ValueError, IndexError, AttributeError):
        return None


def cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _processor(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    text = cpuinfo.read_text(encoding="utf-8", errors="replace") if cpuinfo.is_file() else ""
    names = (line.partition(":")[2].strip() for line in text.splitlines() if line.startswith("model name"))
    return next(names, "") or platform.processor() or platform.machine()


def _memory() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return None
