"""Which part of a student's weights its compressions reach, and what is left as it is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from torch import Tensor, nn

from distill.compression.structure.low_rank import LowRankLinear
from distill.compression.structure.sharing import shared_layers
from distill.compression.structure.units import UNIT_KINDS, find_units
from distill.core.internals.torch import own_parameters
from distill.core.module_selection import LINEAR, head_modules

__all__ = ["Coverage", "coverage", "coverage_of", "reached_by", "role"]

_SMALL = 0.005
"""Roles of a lesser part of the weights are named together."""


@dataclass(frozen=True)
class Coverage:
    """Counts of weights: values of all parameters, each once, however many names it has.

    Attributes:
        weights: All of the student's.
        compressed: Those that at least one compression reaches.
        by: What compresses -> how many it reaches.
        left: Role of the others (``embeddings``, ``experts``, ``LSTM``) -> how many, the most first.
        sparsity: The part of all weights that pruning has set to zero; ``None`` where none has, or not yet.
        bits: A weight's bits, on average over all; ``None`` where nothing is quantized, or not yet.
    """

    weights: int
    compressed: int
    by: Mapping[str, int] = field(default_factory=dict)
    left: Mapping[str, int] = field(default_factory=dict)
    sparsity: float | None = None
    bits: float | None = None

    def __str__(self) -> str:
        """``compressed: 9 % of the weights; left as they are: experts (81 %), LSTM (10 %)``."""
        of = max(1, self.weights)
        text = f"compressed: {_percent(self.compressed / of)} of the weights"
        if len(self.by) > 1:
            text += f" ({', '.join(f'{name} {_percent(count / of)}' for name, count in self.by.items())})"
        named = {name: count for name, count in self.left.items() if count >= _SMALL * of}
        rest = sum(count for name, count in self.left.items() if name not in named)
        parts = [f"{name} ({_percent(count / of)})" for name, count in named.items()]
        parts += [f"{'others' if parts else ', '.join(self.left)} ({_percent(rest / of)})"] if rest else []
        return f"{text}; left as they are: {', '.join(parts)}" if parts else text

    def record(self) -> dict[str, Any]:
        """As ``compression.json`` and ``result.json`` hold it."""
        return {name: value for name, value in asdict(self).items() if value is not None}


def _percent(part: float) -> str:
    if 0 < part < 0.01:
        return f"{100 * part:.2g} %"
    return "over 99 %" if 0.995 <= part < 1 else f"{100 * part:.0f} %"


def coverage(student: nn.Module, reached: Mapping[str, Iterable[str]]) -> Coverage:
    """Count what is reached.

    Args:
        student: As it is trained or saved.
        reached: What compresses -> names of the student's parameters that it reaches, of those tied any of the names.
    """
    named = dict(student.named_parameters(remove_duplicate=False))
    sizes = {id(parameter): parameter.numel() for parameter in named.values()}
    by = {who: {id(named[name]) for name in names if name in named} for who, names in reached.items()}
    touched = set().union(*by.values())
    left: Counter[str] = Counter()
    for name, parameter in student.named_parameters():
        if id(parameter) not in touched:
            left[role(student, name)] += parameter.numel()
    return Coverage(
        weights=sum(sizes.values()),
        compressed=sum(sizes[one] for one in touched),
        by={who: sum(sizes[one] for one in those) for who, those in by.items()},
        left=dict(left.most_common()),
    )


def coverage_of(student: nn.Module, steps: Sequence[Mapping[str, Any]]) -> Coverage:
    """What was reached of a finished student, with the sparsity and the bits of all its weights.

    Args:
        student: As it is saved.
        steps: What was done to it, as ``compression.json`` lists it.
    """
    reached: dict[str, list[str]] = {}
    for step in steps:
        reached.setdefault(str(step["kind"]), []).extend(reached_by(student, step))
    counted = coverage(student, {kind: names for kind, names in reached.items() if names})
    zeros = _zeros(student, [step for step in steps if step["kind"] == "sparsity"])
    return Coverage(
        **{name: getattr(counted, name) for name in ("weights", "compressed", "by", "left")},
        sparsity=None if zeros is None else zeros / max(1, counted.weights),
        bits=_bits(student, [step for step in steps if step["kind"] == "quantize"], counted.weights),
    )


def reached_by(student: nn.Module, step: Mapping[str, Any]) -> list[str]:
    """Names of the parameters that a step of ``compression.json`` reached, as far as they are there still."""
    kind = step["kind"]
    if kind == "sparsity":
        return [parameter_name(student, name) for name in step.get("layers", ())]
    if kind == "quantize":
        return [f"{name}.weight" for name in step["modules"]]
    if kind == "low_rank":
        return [f"{name}.{factor}.weight" for name in step["modules"] for factor in ("down", "up")]
    if kind == "share":
        layers = shared_layers(student, "compression.json")
        ids = {id(p) for group in step["groups"] for number in group for p in layers[number - 1].parameters()}
        return [name for name, parameter in student.named_parameters() if id(parameter) in ids]
    if kind == "remove":
        units = [one for what in UNIT_KINDS if what in step for one in find_units(student, what, "compression.json")]
        cut = [name for name in step.get("shapes", ()) if name in dict(student.named_parameters())]
        return [part.parameter for one in units for part in one.slices] + cut
    return []


def parameter_name(student: nn.Module, layer: str) -> str:
    """The parameter that a layer of a sparsity step stands for: its module's ``weight``, or a parameter by name."""
    return layer if layer in dict(student.named_parameters(remove_duplicate=False)) else f"{layer}.weight"


def _zeros(student: nn.Module, steps: Sequence[Mapping[str, Any]]) -> int | None:
    named = dict(student.named_parameters(remove_duplicate=False))
    names = [name for step in steps for name in reached_by(student, step) if name in named]
    pruned = {id(named[name]): named[name] for name in names}
    return sum(int((weight == 0).sum()) for weight in pruned.values()) if pruned else None


def _bits(student: nn.Module, steps: Sequence[Mapping[str, Any]], weights: int) -> float | None:
    named: dict[str, Tensor] = dict(student.named_parameters(remove_duplicate=False))
    widths = {
        id(named[f"{name}.weight"]): (named[f"{name}.weight"].numel(), int(scheme["weights"]["bits"]))
        for step in steps
        for name, scheme in step["modules"].items()
        if f"{name}.weight" in named
    }
    if not widths:
        return None
    rounded = sum(count for count, _ in widths.values())
    whole = 8 * next(student.parameters()).element_size()
    return (sum(count * bits for count, bits in widths.values()) + whole * (weights - rounded)) / max(1, weights)


def role(student: nn.Module, name: str) -> str:
    """What a parameter is for, in a word that users know.

    Args:
        student: Whose parameter it is.
        name: Of the parameter.
    """
    owner, _, own = name.rpartition(".")
    module = student.get_submodule(owner)
    parameter = own_parameters(module)[own]
    assert parameter is not None
    if parameter.dim() <= 1:
        return "norms and biases"
    if owner in head_modules(student) or any(owner.startswith(f"{one}.") for one in head_modules(student)):
        return "head"
    if isinstance(module, nn.Embedding):
        return "embeddings"
    if any("expert" in part.lower() for part in (*owner.split("."), type(module).__name__)):
        return "experts"
    if isinstance(module, (*LINEAR, LowRankLinear)):
        return "other linear maps"
    return type(module).__name__
