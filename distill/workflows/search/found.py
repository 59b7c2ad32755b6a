"""Which knobs a recipe has: what it names, and what its student and its teacher give a meaning to."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from distill.callbacks import GradualMagnitudePruning, LowRank, QuantizationAwareTraining, StructuredPruning
from distill.compression.pruning.weights import PRUNABLE
from distill.compression.quantization.select import QUANTIZABLE, candidates
from distill.compression.sensitivity.scan import SPARSITIES
from distill.core.model_spec import ModelSpec
from distill.core.module_selection import select
from distill.core.utils.errors import UserError
from distill.workflows.job.build import Job
from distill.workflows.search.knobs import REMOVED, Knob, class_name

__all__ = ["GROUPS", "Found", "Group", "find"]

GROUPS = {
    "attention": r"(?i)attention|attn",
    "ffn": r"(?i)^(?!.*(?:attention|attn)).*(?:intermediate|mlp|ffn|feed_forward|layers?\.\d+\.(?:output|fc\d))",
}
"""Groups of layers -> what is found in their names, in models of transformers."""

_WIDTHS = (4, 8)
"""Bits in which exports store weights; those between take the next one up."""

_REMOVE = {"heads": (0.0, 0.25, 0.5, 0.75), "neurons": tuple(part / 8 for part in range(8))}
_REMOVE |= {"hidden": (0.0, 0.125, 0.25, 0.375, 0.5), "channels": _REMOVE["neurons"]}


@dataclass(frozen=True)
class Group:
    """Layers that one knob is of, for the scan.

    Attributes:
        knob: Its name.
        layers: Names of the layers.
    """

    knob: str
    layers: tuple[str, ...]


@dataclass
class Found:
    """What of a recipe can be searched.

    Attributes:
        knobs: In the order in which a student is made: structure, masks, rounding, training.
        groups: Layers of the knobs that a scan of the student can say something of.
        left: What is left as the recipe has it, and why, a line each.
    """

    knobs: list[Knob] = field(default_factory=list)
    groups: list[Group] = field(default_factory=list)
    left: list[str] = field(default_factory=list)


def find(job: Job, minimize: str) -> Found:
    """The knobs of a recipe that was built.

    Args:
        job: The recipe's.
        minimize: What the search makes small; single zeros matter to ``gzipped_bytes`` alone.
    """
    found = Found()
    _layers(job, found)
    for place, callback in enumerate(job.callbacks):
        given = job.config["callbacks"][place]
        arguments = given.get("init_args") or {} if isinstance(given, Mapping) else {}
        key = f"callbacks.{place}"
        if isinstance(callback, StructuredPruning):
            _structure(job, key, arguments, found)
        elif isinstance(callback, LowRank):
            _rank(key, arguments, found)
        elif isinstance(callback, GradualMagnitudePruning):
            _sparsity(job, key, arguments, found, minimize)
        elif isinstance(callback, QuantizationAwareTraining):
            _bits(job, key, arguments, found)
    found.knobs += _of_losses(job.config["model"].get("losses") or [])
    return found


# ---------------------------------------------------------------------- structure


def _layers(job: Job, found: Found) -> None:
    """How many of the teacher's layers the student copies, or has of its own."""
    student = job.config["model"]["student"]
    student = student if isinstance(student, Mapping) else {}
    fresh = student.get("config") or {}
    for name in ("num_hidden_layers", "n_layer", "n_layers"):
        if isinstance(fresh.get(name), int):
            _add_layers(job, Knob("layers", f"model.student.config.{name}", fresh[name], _up_to(fresh[name])), found)
            return
    if isinstance(student.get("layers"), list):
        found.left.append("layers: the recipe names those of the student one by one")
        return
    if student.get("num_layers") is None and student.get("num_decoder_layers") is None:
        return
    spec = ModelSpec(job.module.student, "model.student")
    if spec.has_two_stacks:
        found.left.append("layers: those of an encoder and of a decoder are counted apart")
        return
    count = spec.num_layers  # the recipe may give a share
    most = count if student.get("path") else max(count, _depth(job) or count)
    _add_layers(job, Knob("layers", "model.student.num_layers", count, _up_to(most), whole=True), found)


def _add_layers(job: Job, knob: Knob, found: Found) -> None:
    numbered = [
        class_name(loss)
        for loss in job.config["model"].get("losses") or []
        if isinstance(loss, Mapping) and isinstance((loss.get("init_args") or {}).get("layers"), (dict, list))
    ]
    if numbered:
        found.left.append(f"layers: {numbered[0]} names the student's by their numbers")
    else:
        found.knobs.append(knob)


def _depth(job: Job) -> int | None:
    teacher = job.module.teacher
    models = [] if teacher is None else teacher.models
    try:
        return ModelSpec(models[0], "model.teacher").num_layers if models else None
    except UserError:
        return None


def _up_to(most: int) -> tuple[int, ...]:
    return tuple(range(1, most + 1))


def _structure(job: Job, key: str, arguments: Mapping[str, Any], found: Found) -> None:
    for name in REMOVED:
        value = arguments.get(name)
        if not value:
            continue
        if name == "layers":
            depth = ModelSpec(job.module.student, "model.student").num_layers
            if isinstance(value, list):
                found.left.append("layers: the recipe removes them by their numbers")
            elif not any(knob.name == "layers" for knob in found.knobs):
                knob = Knob("layers", f"{key}.layers", depth - value, _up_to(depth), depth=depth, whole=True)
                _add_layers(job, knob, found)
        else:
            found.knobs.append(Knob(name, f"{key}.{name}", value, _with(_REMOVE[name], value)))


def _with(values: Iterable[Any], own: Any) -> tuple[Any, ...]:
    return tuple(sorted({*values, own}))


def _rank(key: str, arguments: Mapping[str, Any], found: Found) -> None:
    rank, energy = arguments.get("rank"), arguments.get("energy")
    if isinstance(rank, int):
        values = _with({max(1, rank // 4), max(1, rank // 2), 2 * rank}, rank)
        found.knobs.append(Knob("rank", f"{key}.rank", rank, values, whole=True))
    elif energy is not None:
        found.knobs.append(Knob("energy", f"{key}.energy", energy, low=min(0.5, energy), high=max(0.98, energy)))


# ---------------------------------------------------------------------- masks and rounding


def _sparsity(job: Job, key: str, arguments: Mapping[str, Any], found: Found, minimize: str) -> None:
    if minimize != "gzipped_bytes":
        found.left.append(f"sparsity: single zeros change no {minimize}; they count with --minimize gzipped_bytes")
        return
    final = arguments.get("final_sparsity")
    if ":" in str(arguments.get("granularity")) or not isinstance(arguments.get("schedule"), str):
        found.left.append("sparsity: n:m and a schedule by steps say it themselves")
        return
    most = arguments.get("max_layer_sparsity") or 1.0
    values = tuple(level for level in _with((*SPARSITIES, 0.0), final or 0.8) if level <= most)
    chosen = select(
        job.module.student, PRUNABLE, arguments.get("include"), arguments.get("exclude") or (), key="sparsity"
    )
    for group, layers in _groups(chosen):
        found.knobs.append(Knob(f"sparsity.{group}", f"{key}.overrides", final or 0.8, values, pattern=GROUPS[group]))
        found.groups.append(Group(f"sparsity.{group}", layers))
    if not found.groups:
        found.knobs.append(Knob("sparsity", f"{key}.final_sparsity", final or 0.8, values))
        found.groups.append(Group("sparsity", tuple(chosen)))


def _groups(chosen: Mapping[str, nn.Module]) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Each group that has layers among these."""
    for group, pattern in GROUPS.items():
        layers = tuple(name for name in chosen if re.search(pattern, name))
        if layers:
            yield group, layers


def _bits(job: Job, key: str, arguments: Mapping[str, Any], found: Found) -> None:
    weights, tables = arguments.get("weights") or {}, arguments.get("embeddings")
    include, exclude = arguments.get("include"), arguments.get("exclude") or ()
    chosen = candidates(job.module.student, (*QUANTIZABLE, nn.Embedding), include, exclude, key="bits")
    maps = {name: module for name, module in chosen.items() if not isinstance(module, nn.Embedding)}
    if _has_bits(weights, "bits", found):
        own, before = weights["bits"], len(found.groups)
        for group, layers in _groups(maps):
            values = _with(_WIDTHS, own)
            found.knobs.append(Knob(f"bits.{group}", f"{key}.overrides", own, values, pattern=GROUPS[group]))
            found.groups.append(Group(f"bits.{group}", layers))
        if len(found.groups) == before and maps:
            found.knobs.append(Knob("bits.layers", f"{key}.weights.bits", own, _with(_WIDTHS, own)))
            found.groups.append(Group("bits.layers", tuple(maps)))
    if tables is not None and len(maps) < len(chosen) and _has_bits(tables, "bits.embeddings", found):
        values = _with(_WIDTHS, tables["bits"])
        found.knobs.append(Knob("bits.embeddings", f"{key}.embeddings.bits", tables["bits"], values))
        found.groups.append(Group("bits.embeddings", tuple(name for name in chosen if name not in maps)))


def _has_bits(scheme: Mapping[str, Any], name: str, found: Found) -> bool:
    """Whether integers of some width are asked for, and not a format or half precision."""
    if scheme.get("format", "int") != "int" or scheme.get("bits", 8) > 8:
        found.left.append(f"{name}: the recipe rounds to no integers of 8 bits or fewer")
        return False
    if scheme.get("reduced_range"):
        found.left.append(f"{name}: reduced_range is of 8 bits")
        return False
    return True


# ---------------------------------------------------------------------- training


def _of_losses(losses: list[Any]) -> list[Knob]:
    """Weights beside the first loss's, as only their proportions matter, and temperatures."""
    names = [class_name(loss) for loss in losses]
    knobs = []
    for place, loss in enumerate(losses):
        arguments = loss.get("init_args") or {} if isinstance(loss, Mapping) else {}
        name = names[place] if names.count(names[place]) == 1 else f"{names[place]}.{place}"
        weight, temperature = arguments.get("weight"), arguments.get("temperature")
        if place and isinstance(weight, (int, float)) and weight > 0:
            key = f"model.losses.{place}.weight"
            knobs.append(Knob(f"weight.{name}", key, float(weight), low=weight / 10, high=weight * 10.0, log=True))
        if isinstance(temperature, (int, float)):
            low, high = min(1.0, float(temperature)), max(8.0, float(temperature))
            key = f"model.losses.{place}.temperature"
            knobs.append(Knob(f"temperature.{name}", key, float(temperature), low=low, high=high, log=True))
    return knobs
