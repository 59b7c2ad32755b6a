"""Which trials come first: the recipe itself, and what a scan of its layers takes for harmless."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any

from torch import nn

from distill.compression.pruning.weights import PRUNABLE
from distill.compression.quantization.select import QUANTIZABLE
from distill.compression.sensitivity.scan import Kind, Point, scan_groups
from distill.core.module_selection import select
from distill.core.utils.console import wide
from distill.core.utils.progress import track
from distill.training.calibration import first_batches
from distill.workflows.job.build import Job
from distill.workflows.search.found import GROUPS, Group
from distill.workflows.search.knobs import Knob

__all__ = ["TOLERANCES", "scan", "seeds"]

TOLERANCES = (0.01, 0.1)
"""Nats by which a group of layers may change the predictions: what is hardly seen, and what training may win back."""

_SAMPLES = 128


def scan(job: Job, knobs: Sequence[Knob], groups: Iterable[Group]) -> list[Point]:
    """What becomes of the predictions of a trained model as each group of layers is pruned or rounded, untrained.

    The model is the teacher, or the saved student that the recipe begins with; without either nothing is scanned.

    Args:
        job: The recipe's.
        knobs: With more than one value; of others nothing is asked.
        groups: Layers of the student. The teacher's are found by the same patterns.
    """
    model = _trained(job)
    if model is None:
        return []
    open_ = {knob.name: knob for knob in knobs if not knob.fixed and knob.values}
    wanted = {group.knob: layers for group in groups if group.knob in open_ and (layers := _layers(model, group.knob))}
    tries = [(name, _kind(name), float(level), wanted[name]) for name in wanted for level in open_[name].values]
    if not tries:
        return []
    print("scanning groups of layers, to see what may come first", flush=True)
    device = next(model.parameters()).device
    batches = first_batches(job.data.val_dataloader(), job.module.task, _SAMPLES, device)
    bar = partial(track, what="tried", console=wide())
    return scan_groups(model, job.module.task, batches, tries, progress=bar)


def _trained(job: Job) -> nn.Module | None:
    data = job.config["data"].get("init_args") or {}
    teacher = job.module.teacher
    if teacher is not None and teacher.models and not data.get("teacher_tokenizer"):
        return teacher.models[0]
    student = job.config["model"]["student"]
    begun = student if isinstance(student, str) else student.get("path") if isinstance(student, Mapping) else None
    return job.module.student if begun else None


def _kind(knob: str) -> Kind:
    return "bits" if knob.startswith("bits") else "sparsity"


def _layers(model: nn.Module, knob: str) -> list[nn.Module]:
    """The layers of the scanned model that the knob would be of, each weight once."""
    kind, _, group = knob.partition(".")
    if group == "embeddings":
        return _once(module for module in model.modules() if isinstance(module, nn.Embedding))
    chosen = select(model, PRUNABLE if kind == "sparsity" else QUANTIZABLE, key=knob)
    pattern = GROUPS.get(group, "")
    return _once(module for name, module in chosen.items() if re.search(pattern, name))


def _once(modules: Iterable[nn.Module]) -> list[nn.Module]:
    return list({id(module.weight): module for module in modules}.values())


def seeds(knobs: Sequence[Knob], points: Sequence[Point]) -> list[dict[str, Any]]:
    """The values of the first trials: the recipe's own, and with what the scan allows at each tolerance.

    A group of layers gets the fewest bits, and the most zeros, that change the predictions by no more than the
    tolerance; where all do, the most bits and the fewest zeros. All else is as in the recipe.

    Args:
        knobs: All.
        points: Of :func:`scan`.
    """
    recipe = {knob.name: knob.nearest(knob.recipe) for knob in knobs}
    found = [recipe]
    for tolerance in TOLERANCES if points else ():
        allowed = {knob.name: _allowed(knob, points, tolerance) for knob in knobs}
        found.append(recipe | {name: level for name, level in allowed.items() if level is not None})
    return [one for place, one in enumerate(found) if one not in found[:place]]


def _allowed(knob: Knob, points: Iterable[Point], tolerance: float) -> Any:
    """The level at which a knob's layers save the most within the tolerance; nothing of one that was not scanned."""
    tried = [point for point in points if point.layer == knob.name]
    if not tried:
        return None
    saving = sorted(tried, key=lambda point: -point.level if point.kind == "bits" else point.level)
    within = [point for point in saving if point.divergence <= tolerance]
    return knob.nearest((within[-1] if within else saving[0]).level)
