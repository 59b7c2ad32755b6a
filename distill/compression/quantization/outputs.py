"""Tensors between layers that are rounded: found by a traced pass, and then rounded in every pass.

A point is known by a module and by which operation of its pass it is (:mod:`distill.compression.operations`). What it
is rounded to, an observer finds, as of a layer's input. The ranges of all points of a model are in a buffer of one of
its layers, the anchor, and so are their scales when they are frozen:

=======================  =====================================================================
``output_ranges``        float32 ``[points, 2]``, of a layer that is not frozen
``output_scales``        float32 ``[points]``, of a frozen one
``output_zero_points``   int32 ``[points]``, likewise
=======================  =====================================================================
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from distill.compression import own_pass
from distill.compression.operations import Places, set_places, unwatch, watch
from distill.compression.own_pass import in_backward
from distill.compression.preserved_state import preserved_state
from distill.compression.quantization.base import QuantizedLayer
from distill.compression.quantization.convolutions import QuantizedConv
from distill.compression.quantization.fake import fake_quantize
from distill.compression.quantization.layers import multiplies_integers
from distill.compression.quantization.observers import batch_range, input_qparams, unseen, widest
from distill.compression.quantization.output_plan import plan_outputs
from distill.compression.tracing import Recorder, recorded
from distill.core.numerics import at_least_float32
from distill.core.signals import Positions, tokens_within
from distill.core.utils.errors import UserError

__all__ = [
    "Outputs",
    "Point",
    "freeze_outputs",
    "hand_over",
    "points_of",
    "rebuild_outputs",
    "record_outputs",
    "round_outputs",
    "rounds_outputs",
]

Outputs = Literal["auto", "none"]
"""Whether what lies between layers is rounded: where a runtime computes with integers for it, or nowhere."""


class Point:
    """A tensor between layers with a grid of its own.

    Attributes:
        anchor: The layer that holds its range; it rounds, observes and is frozen when that layer does and is.
        index: Its row there.
        scheme: How it is rounded: as the input of that layer.
        module: The name of the module whose forward makes it.
        place: Which of the operations of that pass makes it.
        kinds: These operations.
        exported: What rounds in its place, of a model that exists to be exported.
        seen: See :class:`~.base.QuantizedLayer`, and likewise ``tokens``, ``calls``, ``places`` and ``ranged``.
    """

    static, learns_input = True, False

    def __init__(self, anchor: QuantizedLayer, index: int, module: str, place: int, kinds: Sequence[str]) -> None:
        assert anchor.scheme.activations is not None
        self.anchor, self.index, self.scheme = anchor, index, anchor.scheme.activations
        self.module, self.place, self.kinds = module, place, tuple(kinds)
        self.exported: nn.Module | None = None
        self.seen: Tensor | None = None
        self.tokens: Positions = None
        self.calls, self.places, self.ranged = 0, 0, False

    @property
    def observed_range(self) -> Tensor:
        """What was seen, ``[2]``: a view, which may be written."""
        return self.anchor.output_ranges[self.index]

    def __call__(self, x: Tensor) -> Tensor:
        mode = self.anchor.mode
        if not x.is_floating_point():
            return x
        if self.exported is not None:
            return cast(Tensor, self.exported(x))
        if self.anchor.observing and self.anchor.training:
            self._observe(x)
        if mode == "float" or not self.ranged:
            return x
        if mode == "frozen":
            scale, zero_point = self.anchor.output_scales[self.index], self.anchor.output_zero_points[self.index]
            bounds = self.scheme.bounds
            return torch.fake_quantize_per_tensor_affine(at_least_float32(x), scale, zero_point, *bounds).to(x.dtype)
        return fake_quantize(x, *input_qparams(self.observed_range, self.scheme), self.scheme.bounds).to(x.dtype)

    @torch.no_grad()
    def _observe(self, x: Tensor) -> None:
        if not in_backward():
            self.calls += 1
            self.places = max(self.places, self.calls)
        found = batch_range(self._by_position(x), self.scheme, self.tokens)
        self.seen = found if self.seen is None else widest(self.seen, found)

    def _by_position(self, x: Tensor) -> Tensor:
        """With features last, as the anchor reads sequences, unless it is these ``[B, T, features]`` already."""
        turned = self.anchor.by_position(x) if x.dim() == 3 else x
        already = tokens_within(x, self.tokens) is not None and tokens_within(turned, self.tokens) is None
        return x if already else turned


def rounds_outputs(layers: Mapping[str, QuantizedLayer], outputs: Outputs) -> bool:
    """Whether anything between these layers is rounded: where convolutions multiply integers of 8 bits."""
    return outputs == "auto" and any(_anchors(layer) for layer in layers.values())


def _anchors(layer: QuantizedLayer) -> bool:
    """Whether it may hold the ranges of points."""
    return _full(layer) and isinstance(layer, QuantizedConv)


def _full(layer: QuantizedLayer) -> bool:
    """Whether it multiplies integers of all 8 bits, on a grid that is not trained: such a runtime passes on."""
    inputs = layer.scheme.activations
    return (
        multiplies_integers(layer)
        and inputs is not None
        and (inputs.kind, inputs.bits, inputs.symmetric)
        == (
            "static",
            8,
            False,
        )
        and not inputs.learned
    )


@torch.inference_mode(False)  # what a validation makes is trained afterwards
def round_outputs(
    model: nn.Module, layers: Mapping[str, QuantizedLayer], run: Callable[[], Any], *, trains: bool, key: str
) -> None:
    """Find what is to be rounded between these layers (:func:`~.output_plan.plan_outputs`), and have it rounded.

    Modules whose passes are not always the same, in training and in evaluation, are passed over: nobody could say which
    of their operations is which.

    Args:
        model: With these layers; ranges that were loaded stay.
        layers: By name.
        run: A pass of the model: what it gives.
        trains: Whether the model is to be trained.
        key: Where the setting stands, for messages.

    Raises:
        UserError: if ranges were loaded of another number of points.
    """
    watch(model, set(layers.values()))
    traced, steady = _traced(model, run, trains)
    for operation in traced.operations:
        if operation.module not in steady:
            operation.place = None
    plan = plan_outputs(traced.operations, {layer for layer in layers.values() if _full(layer)})
    name = {module: name for name, module in model.named_modules()}
    index: dict[tuple[str, int], int] = {}
    for one in plan.points:
        assert one.module is not None
        assert one.place is not None
        index.setdefault((name[one.module], one.place), len(index))
    if not index:
        unwatch(model)
        return
    at = {one: index[name[one.module], one.place] for one in plan.points if one.module and one.place is not None}
    read: dict[str, int] = {}
    for layer, sources in plan.read.items():
        found = {at.get(source) for source in sources}
        if len(found) == 1 and (only := found.pop()) is not None:
            read[name[layer]] = only
    kinds = {name[module]: kinds for module, kinds in steady.items()}
    called = {operation.layer for operation in traced.operations}
    anchor = next((name for name, layer in layers.items() if layer in called and _anchors(layer)), None)
    if anchor is None:
        unwatch(model)
        return
    _attach(model, layers, _Record(anchor, list(index), kinds, read), key)


def _traced(
    model: nn.Module, run: Callable[[], Any], trains: bool
) -> tuple[Recorder, dict[nn.Module, tuple[str, ...]]]:
    """The operations of a pass, and those of each module whose passes are all the same."""
    passes: dict[nn.Module, set[tuple[str, ...]]] = {}
    with preserved_state(model, parameters=False), torch.no_grad(), own_pass.contained():
        for training in (True, False) if trains else (False,):
            model.train(training)
            traced = recorded(run)
            for module, kinds in traced.passes.items():
                passes.setdefault(module, set()).update(kinds)
    return traced, {module: next(iter(kinds)) for module, kinds in passes.items() if len(kinds) == 1}


@dataclass(frozen=True)
class _Record:
    """What a saved student says of its points.

    Attributes:
        anchor: The layer that holds their ranges.
        points: Module and place of each.
        kinds: Module -> the operations of its pass, of all that have points.
        read: Layer -> the index of the point that it reads.
    """

    anchor: str
    points: Sequence[tuple[str, int]]
    kinds: Mapping[str, Sequence[str]]
    read: Mapping[str, int]


def _attach(model: nn.Module, layers: Mapping[str, QuantizedLayer], record: _Record, key: str) -> None:
    anchor = layers[record.anchor]
    if anchor.scheme.activations is None:
        problem = "it holds the scales of what is rounded between layers, and does not round its own inputs"
        raise UserError(problem, key=f"{key}.outputs", value=record.anchor, hint="quantize the student once more")
    points = [Point(anchor, index, *at, record.kinds[at[0]]) for index, at in enumerate(record.points)]
    if anchor.mode == "frozen":
        one = torch.ones(len(points), device=anchor.weight.device)
        anchor.register_buffer("output_scales", one)
        anchor.register_buffer("output_zero_points", one.int())
        for point in points:
            point.ranged = True
    elif not hasattr(anchor, "output_ranges"):
        anchor.register_buffer("output_ranges", unseen(anchor.weight.device).repeat(len(points), 1))
    elif len(anchor.output_ranges) != len(points):
        problem = f"the student rounds at {len(points)} places between its layers, and rounded at others before"
        raise UserError(problem, key=f"{key}.outputs", value=len(anchor.output_ranges), hint="begin a run of its own")
    anchor.points = points
    for name, index in record.read.items():
        layers[name].source = points[index]
    places: dict[str, Places] = {}
    for point in points:
        known = places.setdefault(point.module, Places(point.module, point.kinds, {}, key))
        known.points[point.place] = point
    set_places(model, places.values())


def points_of(layers: Mapping[str, QuantizedLayer]) -> list[Point]:
    """The points whose ranges these layers hold."""
    return [point for layer in layers.values() for point in layer.points]


def record_outputs(layers: Mapping[str, QuantizedLayer]) -> dict[str, Any] | None:
    """What ``compression.json`` says of the points between these layers; ``None`` where there are none."""
    anchor = next((name for name, layer in layers.items() if layer.points), None)
    if anchor is None:
        return None
    points = layers[anchor].points
    kinds = {point.module: list(point.kinds) for point in points}
    read = {name: layer.source.index for name, layer in layers.items() if layer.source and layer.source.ranged}
    return {"anchor": anchor, "points": [[p.module, p.place] for p in points], "kinds": kinds, "read": read}


def rebuild_outputs(model: nn.Module, layers: Mapping[str, QuantizedLayer], record: Mapping[str, Any]) -> None:
    """Have a model round between its frozen layers as :func:`record_outputs` says it did."""
    watch(model, set(layers.values()))
    points = [(module, place) for module, place in record["points"]]
    _attach(model, layers, _Record(record["anchor"], points, record["kinds"], record["read"]), "compression.json")


def hand_over(layers: Mapping[str, QuantizedLayer], blind: Collection[str]) -> None:
    """Have another layer hold the ranges of points where the one that does is to round no inputs.

    Args:
        layers: Before they are frozen.
        blind: Those that are to round no inputs. Where these are all, nothing is rounded between layers.
    """
    before = next((layers[name] for name in blind if layers[name].points), None)
    if before is None:
        return
    after = next((layer for name, layer in layers.items() if name not in blind and _anchors(layer)), None)
    if after is not None:
        after.register_buffer("output_ranges", before.output_ranges)
        after.points = before.points
        for point in after.points:
            point.anchor = after
    else:
        for layer in layers.values():
            layer.source = None
        for point in before.points:
            point.ranged = False
    del before.output_ranges
    before.points = []


def freeze_outputs(anchor: QuantizedLayer) -> None:
    """Keep of the points whose ranges this layer holds what integers need; those that nothing came to are dropped."""
    if not anchor.points:
        return
    kept: list[Point] = []
    grids: list[tuple[Tensor, Tensor]] = []
    for point, ranged in zip(anchor.points, anchor.output_ranges.isfinite().all(1).tolist(), strict=True):
        point.ranged = ranged
        if ranged:
            grids.append(input_qparams(point.observed_range, point.scheme))
            kept.append(point)
    del anchor.output_ranges
    for index, point in enumerate(kept):
        point.index = index
    anchor.points = kept
    if kept:
        anchor.register_buffer("output_scales", torch.stack([scale for scale, _ in grids]))
        anchor.register_buffer("output_zero_points", torch.stack([zero_point for _, zero_point in grids]).int())
