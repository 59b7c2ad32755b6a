"""The channels of a net that can be removed, each with all that is tied to it, found by following one pass."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from pytorch_lightning.utilities.seed import isolate_rng
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from distill.compression.quantization.layers import QuantizedLayer
from distill.compression.structure.masking import factors
from distill.compression.structure.removal import remove_units
from distill.compression.structure.tracing import Trace
from distill.compression.structure.units import Slice, Units
from distill.core.internals.torch import own_parameters
from distill.core.module_selection import CONVOLUTIONS, LINEAR
from distill.core.orientation import TRANSPOSED, input_axis, output_axis

__all__ = ["MAPS", "Channels", "Run", "find_channels", "multiplications"]

MAPS = (*LINEAR, *CONVOLUTIONS, *TRANSPOSED)
"""Modules whose outputs are channels."""

Run = Callable[[nn.Module], Sequence[Tensor]]
"""One pass of a model: all that it answers."""

_CLOSE = 1e-4
"""How far a masked and a shrunken net may differ, as a part of the largest value that they give: the sums of float32
are in another order."""


@dataclass(frozen=True)
class Channels:
    """What was found.

    Attributes:
        units: Of each group of channels, which are in the same tensors; ``layer`` counts the groups, and ``owner`` is
            the map that makes them.
        fixed: Operators, with their modules, that keep channels from being removed.
        untried: Owners of groups that were found, and whose removal did not give what their masks gave.
    """

    units: tuple[Units, ...]
    fixed: tuple[str, ...]
    untried: tuple[str, ...]


def find_channels(model: nn.Module, run: Run) -> Channels:
    """The channels of a net that can go, and the proof that they can.

    Args:
        model: As it is; not changed.
        run: A pass, which is made with copies of the model, in eval mode (and once in training mode).
    """
    with isolate_rng(), torch.inference_mode(False):
        trace = Trace(fresh := _copy(model))
        with torch.no_grad(), trace:
            answers = run(fresh)
        trace.fix(answers)
        able, failed = _tried(model, _units(fresh, trace), run)
    return Channels(able, tuple(trace.fixed), failed)


def _copy(model: nn.Module) -> nn.Module:
    """A copy to try things with: of plain layers, in eval mode, and with no weight that is all zeros."""
    fresh = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(0)
    for module in fresh.modules():
        if isinstance(module, QuantizedLayer):
            module.__class__ = module.plain  # type: ignore[assignment]
    fresh.float().eval()
    with torch.no_grad():
        for parameter in fresh.parameters():
            if not parameter.any():
                parameter.copy_(torch.randn(parameter.shape, generator=generator) / 10)
    return fresh


def _units(model: nn.Module, trace: Trace) -> tuple[Units, ...]:
    """Classes of tied features as units, those in the same tensors together."""
    members: dict[int, dict[tuple[str, int], list[int]]] = {}
    for name, axis, roots in trace.ties.places():
        for index, root in enumerate(roots.tolist()):
            members.setdefault(root, {}).setdefault((name, axis), []).append(index)
    members.pop(0, None)
    alike: dict[tuple[tuple[tuple[str, int], int], ...], list[dict[tuple[str, int], list[int]]]] = {}
    for places in members.values():
        alike.setdefault(tuple((place, len(indices)) for place, indices in places.items()), []).append(places)
    parameters = dict(model.named_parameters())
    tensors: dict[str, Tensor] = {**parameters, **dict(model.named_buffers())}
    found: list[Units] = []
    for signature, classes in alike.items():
        slices: list[Slice] = []
        buffers: list[Slice] = []
        for (name, axis), _ in signature:
            features = torch.tensor([places[name, axis] for places in classes])
            module = model.get_submodule(name.rpartition(".")[0])
            reads = name.endswith("weight") and isinstance(module, MAPS) and axis == input_axis(module)
            part = Slice(name, axis, features.to(tensors[name].device), reads)
            (slices if name in parameters else buffers).append(part)
        owner = next((made for part in slices if (made := _maker(model, part)) is not None), None)
        if owner is not None and len(classes) > 1:
            found.append(Units("channels", len(found) + 1, owner, tuple(slices), tuple(buffers)))
    return tuple(found)


def _maker(model: nn.Module, part: Slice) -> str | None:
    """The map whose outputs are these channels."""
    name, _, own = part.parameter.rpartition(".")
    module = model.get_submodule(name)
    makes = isinstance(module, MAPS) and own == "weight" and part.axis == output_axis(module)
    return name if makes and isinstance(own_parameters(module).get("weight"), nn.Parameter) else None


def multiplications(model: nn.Module, run: Run) -> int:
    """How many products of numbers a pass of a model adds up, in convolutions and products of matrices."""
    with isolate_rng(), torch.inference_mode(False), torch.no_grad(), FlopCounterMode(display=False) as counter:
        run(_copy(model))
    return int(counter.get_total_flops()) // 2


# ---------------------------------------------------------------------- the proof


def _tried(model: nn.Module, units: tuple[Units, ...], run: Run) -> tuple[tuple[Units, ...], tuple[str, ...]]:
    """The groups whose channels can be removed in fact, and the owners of the others."""
    if not units or _holds(model, units, run):
        return units, ()
    able: list[Units] = []
    for one in units:
        if _holds(model, (*able, one), run):
            able.append(one)
    return tuple(able), tuple(one.owner for one in units if one not in able)


def _holds(model: nn.Module, units: Sequence[Units], run: Run) -> bool:
    """Whether a net without some channels gives what it gives with masks: three times, of each group another number."""
    generator = torch.Generator().manual_seed(0)
    for turn in range(3):
        stay = []
        for place, one in enumerate(units):
            gone = 1 + (place + turn * (one.count // 3 + 1)) % (one.count - 1)
            stay.append(torch.randperm(one.count, generator=generator) >= gone)
        masked, removed = _copy(model), _copy(model)
        weights = dict(masked.named_parameters())
        with torch.no_grad():
            for one, mask in zip(units, stay, strict=True):
                for name, factor in factors(one, mask, weights):
                    weights[name].mul_(factor)
            remove_units(removed, list(zip(units, stay, strict=True)))
            try:
                pairs = list(zip(run(masked), run(removed), strict=True))
                if not turn and _trains(masked, run) and not _trains(removed, run):
                    return False
            except Exception:  # whatever the model's own code raises where something is missing
                return False
        for left, right in pairs:
            if left.shape != right.shape:
                return False
            if left.is_floating_point() and not bool(((left - right).abs() <= _CLOSE * left.abs().max()).all()):
                return False
    return True


def _trains(model: nn.Module, run: Run) -> bool:
    """Whether a pass in training mode, in which more may run, goes through."""
    try:
        run(model.train())
    except Exception:
        return False
    return True
