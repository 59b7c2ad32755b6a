"""How long models take, in turns, so that whatever else the machine does falls on all of them alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from distill.workflows.report.costs import Latency

__all__ = ["Call", "Kind", "kinds_of", "latencies", "threads_of_torch", "turns"]

BATCH = 32
"""The larger batch, in which throughput is measured."""

SHORT = 4
"""A short text has so many times fewer tokens."""

_FEWEST, _MOST = 5, 200  # calls of each
_WARM_UP = 2
_MAIN = 0.4  # of the seconds: for one sample, on one thread


@dataclass(frozen=True)
class Kind:
    """One kind of call: on ``threads``, of ``batch`` samples, of ``length`` tokens (``None`` of what is no text)."""

    threads: int
    batch: int
    length: int | None


@dataclass(frozen=True)
class Call:
    """A model that can be called.

    Attributes:
        key: Its name in the report.
        runtime: That runs it.
        prepare: Gives for inputs, and a number of threads, what runs them once.
    """

    key: str
    runtime: str
    prepare: Callable[[Mapping[str, Tensor], int], Callable[[], object]]


def kinds_of(length: int | None, cores: int) -> list[Kind]:
    """Which kinds are timed: one sample first, of its whole length, on one thread.

    Args:
        length: Tokens of a sample, if it is text.
        cores: That there are.
    """
    short = length if length is None or length < 2 * SHORT else length // SHORT
    kinds = [Kind(1, 1, length), Kind(1, 1, short), Kind(1, BATCH, length)]
    kinds += [Kind(cores, 1, length), Kind(cores, BATCH, short), Kind(cores, BATCH, length)]
    return list(dict.fromkeys(kinds))


def latencies(
    calls: Sequence[Call], sample: Mapping[str, Tensor], kinds: Sequence[Kind], seconds: float, notes: list[str]
) -> dict[str, list[Latency]]:
    """Time all models in all kinds of call: key -> what was found.

    Args:
        calls: The models.
        sample: One sample, by name; of text, of at least as many tokens as any kind has.
        kinds: The first gets most of the time.
        seconds: For all of it, about.
        notes: Gets the kinds that are left out, as a round of calls takes longer than the time that they have.
    """
    found: dict[str, list[Latency]] = {call.key: [] for call in calls}
    for place, kind in enumerate(kinds):
        share = _MAIN if place == 0 else (1 - _MAIN) / max(1, len(kinds) - 1)
        inputs = _inputs(sample, kind)
        with threads_of_torch(kind.threads), torch.inference_mode():
            runs = [call.prepare(inputs, kind.threads) for call in calls]
            taken = turns(runs, share * seconds, needed=place == 0)
        if not all(taken):
            text = "" if kind.length is None else f" of {kind.length} tokens"
            notes.append(
                f"not timed: {kind.batch} samples{text} at once, threads {kind.threads}: that takes longer than "
                f"{share * seconds:.1f} s"
            )
        for call, times in zip(calls, taken, strict=True):
            if times:
                found[call.key].append(_latency(call.runtime, kind, times))
    return found


def turns(runs: Sequence[Callable[[], object]], seconds: float, *, needed: bool = True) -> list[list[float]]:
    """Call one after the other, again and again: the milliseconds that each took.

    Args:
        runs: What is called; the first rounds warm up, and are not counted.
        seconds: For all, about; at least five rounds and at most two hundred.
        needed: Whether it is done however long a round takes; else there are no times then.
    """
    round_seconds = 0.0
    for _ in range(_WARM_UP):
        started = time.perf_counter()
        for run in runs:
            run()
        round_seconds = time.perf_counter() - started
        if round_seconds > seconds and not needed:
            return [[] for _ in runs]
    rounds = min(_MOST, max(_FEWEST, int(seconds / max(round_seconds, 1e-9)) - _WARM_UP))
    taken: list[list[float]] = [[] for _ in runs]
    for _ in range(rounds):
        for run, times in zip(runs, taken, strict=True):
            started = time.perf_counter()
            run()
            times.append(1000 * (time.perf_counter() - started))
    return taken


def _latency(runtime: str, kind: Kind, times: Iterable[float]) -> Latency:
    values = np.array(list(times))
    p50, p95, p99 = (float(value) for value in np.quantile(values, [0.5, 0.95, 0.99]))
    return Latency(
        runtime, kind.threads, kind.batch, kind.length, len(values), p50, p95, p99, 1000 * kind.batch / max(p50, 1e-9)
    )


def _inputs(sample: Mapping[str, Tensor], kind: Kind) -> dict[str, Tensor]:
    """The sample as often as a batch has it, cut to its length."""
    cut = {name: tensor if kind.length is None else tensor[:, : kind.length] for name, tensor in sample.items()}
    return {name: tensor.repeat(kind.batch, *[1] * (tensor.dim() - 1)) for name, tensor in cut.items()}


@contextmanager
def threads_of_torch(count: int) -> Iterator[None]:
    """Have torch use so many threads inside the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
