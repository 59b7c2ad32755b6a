"""Latency and memory of a report's models, measured while nothing else of ours runs."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from distill.core.utils.console import wide
from distill.core.utils.progress import stage
from distill.core.utils.turns import timing
from distill.export.verify import torch_logits
from distill.workflows.report.costs import Generation, Latency, Memory
from distill.workflows.report.generation import generation_of
from distill.workflows.report.machine import Others, cores, watched
from distill.workflows.report.memory import resident_bytes, tensor_bytes
from distill.workflows.report.predictions import Options, Subject
from distill.workflows.report.runtimes import calls_of, files_of
from distill.workflows.report.timing import kinds_of, latencies

__all__ = ["Costs", "costs_of"]


class Costs(NamedTuple):
    """What calls cost, by the models' keys, and what other processes did meanwhile."""

    latency: Mapping[str, Sequence[Latency]]
    memory: Mapping[str, Sequence[Memory]]
    generation: Mapping[str, Sequence[Generation]]
    others: Others


def costs_of(
    subjects: Sequence[Subject], sample: Mapping[str, Tensor], length: int | None, options: Options, notes: list[str]
) -> Costs:
    """Time all models in turns, and measure the memory of one call of each.

    Args:
        subjects: The models.
        sample: One sample, by name.
        length: Its tokens, if it is text.
        options: Whether, and how long.
        notes: Gets what is not measured.
    """
    if not options.timed:
        return Costs({}, {}, {}, Others())
    console = wide()
    stage("timing", console)
    with tempfile.TemporaryDirectory() as folder, console.status("timing"):
        files = files_of(subjects, sample, Path(folder), notes)
        calls = calls_of(subjects, files)
        with timing(), watched() as others:
            latency = latencies(calls, sample, kinds_of(length, cores()), options.seconds, notes)
            torch_keys = [call.key for call in calls if call.runtime == "torch"]
            written = generation_of(subjects, torch_keys, sample, options.seconds / 4, notes)
        memory: dict[str, list[Memory]] = {}
        for one in subjects:
            if one.model is not None and one.key in torch_keys:
                most = tensor_bytes(one.model, partial(torch_logits(one.model), dict(sample)))
                memory.setdefault(one.key, []).append(Memory("torch", 1, length, most, "tensors"))
        for one, runtime, file in files:
            if (grown := resident_bytes(runtime, file, sample)) is not None:
                memory.setdefault(one.key, []).append(Memory(runtime, 1, length, grown, "resident"))
    return Costs(latency, memory, written, others)
