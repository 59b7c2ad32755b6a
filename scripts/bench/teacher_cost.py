"""Section 3: what the teacher adds to a step, against its bare forward pass.

One module takes the step three ways on the same batch: its teacher runs; its teacher remembers; and the bare
model alone runs under ``no_grad``. (First - second) / third is 1 where the teacher costs its forward pass and nothing
else. Time is measured; that nothing unneeded is computed or kept is counted, and so exact:

- operations: floating-point operations as torch's counter knows them, and calls of operators;
- kept: bytes of the tensors that autograd saves for the backward pass;
- memory: the peak of what torch's allocator hands out in the step, above what stood before it, from the
  profiler's record of every allocation. Scratch space inside the matrix library is not in it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.optim import Optimizer
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from bench.pair import CLIP, RATE, Pair, Settings, sst2
from bench.report import Row, row
from distill.core.signals import Batch
from distill.models.teachers import LiveTeacher
from distill.training.module import Distillation
from distill.training.optimizer import OptimizerConfig, make_optimizer

RUNS, KNOWN, BARE = "step, teacher runs", "step, teacher remembered", "bare teacher forward"


class Steps:
    """The three ways.

    Args:
        pair: What is trained.
        settings: Their precision is used.
        batches: All that will be asked about; the teacher gets to know them here.
    """

    def __init__(self, pair: Pair, settings: Settings, batches: list[Batch]) -> None:
        self.source: LiveTeacher = pair.source(remember=True)
        self.module: Distillation = pair.module(self.source)
        self.module.train()
        self.autocast, self.teacher = settings.autocast, pair.teacher
        self.optimizer: Optimizer = make_optimizer(OptimizerConfig(lr=RATE), [self.module.student])
        for batch in batches:
            self.known(batch)

    def live(self, batch: Batch) -> None:
        """A step in which the teacher runs."""
        self.source.remember = False
        self._step(batch)

    def known(self, batch: Batch) -> None:
        """A step in which the teacher remembers."""
        self.source.remember = True
        self._step(batch)

    def bare(self, batch: Batch) -> None:
        """The teacher's forward pass."""
        with torch.no_grad(), self.autocast():
            self.teacher(**batch.inputs)

    def _step(self, batch: Batch) -> None:
        with self.autocast():
            objective, _ = self.module.terms(batch)
        (objective / batch.count).backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.module.student.parameters(), CLIP)
        self.optimizer.step()
        self.optimizer.zero_grad()

    def ways(self) -> dict[str, Callable[[Batch], None]]:
        return {RUNS: self.live, KNOWN: self.known, BARE: self.bare}


def teacher_cost(settings: Settings) -> list[Row]:
    """Time and what is counted."""
    pair = sst2(settings)
    batches = pair.batches(min(settings.steps, 20))
    steps = Steps(pair, settings, batches)
    return [*_timed(steps, batches, settings), *_counted(steps, batches)]


def _timed(steps: Steps, batches: list[Batch], settings: Settings) -> list[Row]:
    ways = steps.ways()
    rounds = max(1, settings.steps // len(batches)) * settings.repeats
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    names = list(ways)
    for _ in range(rounds):
        total = dict.fromkeys(ways, 0.0)
        for batch in batches:
            for name in names:
                started = perf_counter()
                ways[name](batch)
                total[name] += perf_counter() - started
            names = [*names[1:], names[0]]
        for name in ways:
            seconds[name].append(total[name] / len(batches))
    rows = [row(name, [1000 * s for s in seconds[name]], "ms") for name in ways]
    with_without = zip(seconds[RUNS], seconds[KNOWN], seconds[BARE], strict=True)
    ratios = [(live - known) / bare for live, known, bare in with_without]
    return [*rows, row("what the teacher adds : its bare forward", ratios, "x", note="1 is its forward and no more")]


def _counted(steps: Steps, batches: list[Batch]) -> list[Row]:
    """On the batch with the most positions."""
    batch = max(batches, key=lambda one: one.inputs["input_ids"].numel())
    ways = steps.ways()
    flops = {name: _flops(way, batch) for name, way in ways.items()}
    calls = {name: _calls(way, batch) for name, way in ways.items()}
    saved = {name: _saved(way, batch) for name, way in ways.items()}
    memory = {name: _memory(way, batch) for name, way in ways.items()}
    shape = " x ".join(map(str, batch.inputs["input_ids"].shape))
    rows = [Row(f"{name}: GFLOP", count / 1e9, "", note=f"batch of {shape}") for name, count in flops.items()]
    added = flops[RUNS] - flops[KNOWN] - flops[BARE]
    rows.append(_zero("computed beyond the teacher's forward", added, "FLOP"))
    extra = calls[RUNS] - calls[KNOWN] - calls[BARE]
    rows.append(Row("operator calls beyond the teacher's forward", extra, f"of {calls[RUNS]}"))
    rows.append(_zero("saved for the backward pass because of the teacher", saved[RUNS] - saved[KNOWN], "bytes"))
    rows += [Row(f"{name}: peak memory", peak / 2**20, "MiB") for name, (peak, _) in memory.items()]
    rows.append(Row("peak memory that the teacher adds", (memory[RUNS][0] - memory[KNOWN][0]) / 2**20, "MiB"))
    rows.append(_zero("left after the step because of the teacher", memory[RUNS][1] - memory[KNOWN][1], "bytes"))
    return rows


def _zero(name: str, value: float, unit: str) -> Row:
    return Row(name, value, unit, goal="0", met=value == 0)


def _flops(way: Callable[[Batch], None], batch: Batch) -> int:
    with FlopCounterMode(display=False) as counter:
        way(batch)
    return int(counter.get_total_flops())


class _Calls(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts what is dispatched to torch's operators."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += 1
        return func(*args, **(kwargs or {}))


def _calls(way: Callable[[Batch], None], batch: Batch) -> int:
    with _Calls() as calls:
        way(batch)
    return int(calls.count)


def _saved(way: Callable[[Batch], None], batch: Batch) -> int:
    """Bytes that autograd saves, each storage once."""
    storages: dict[int, int] = {}
    kept = []  # so that no two have the same address

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = storage.nbytes()
        kept.append(tensor)
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        way(batch)
    return sum(storages.values())


def _memory(way: Callable[[Batch], None], batch: Batch) -> tuple[int, int]:
    """Peak of what is allocated during one step above what stood before, and what is left of it, in bytes."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        way(batch)
    with TemporaryDirectory() as folder:
        trace = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(trace))
        events = json.loads(trace.read_text())["traceEvents"]
    changes = [(event["ts"], event["args"]["Bytes"]) for event in events if event.get("name") == "[memory]"]
    level = peak = 0
    for _, change in sorted(changes, key=lambda one: one[0]):
        level += change
        peak = max(peak, level)
    return peak, level
