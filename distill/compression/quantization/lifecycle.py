"""The life of quantized layers: ranges that follow the inputs, freezing, and going back."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor, nn

from distill.compression.quantization.layers import QuantizedLayer, quantize_layer, quantized_layers
from distill.compression.quantization.observers import followed, reduce_over_ranks, unseen
from distill.compression.quantization.outputs import Point, freeze_outputs, hand_over
from distill.compression.quantization.scheme import LayerScheme
from distill.compression.quantization.weights import Grid, scale_shape
from distill.core.ranks import is_rank_zero
from distill.core.signals import Positions

__all__ = [
    "as_float",
    "attend",
    "find_ranged",
    "finish",
    "follow",
    "freeze",
    "freeze_structure",
    "restore",
    "start_scales",
]

_log = logging.getLogger(__name__)


def attend(layers: Iterable[QuantizedLayer], tokens: Positions) -> None:
    """Have observers look at these positions ``[B, T]`` of the batch that is read next; at all of them if ``None``."""
    for layer in layers:
        everyone: list[QuantizedLayer | Point] = [layer, *layer.points]
        for one in everyone:
            one.tokens, one.calls = tokens, 0


@torch.no_grad()
def follow(layers: Iterable[QuantizedLayer]) -> None:
    """Move the ranges of static inputs by what was seen since the last time, on all ranks together.

    An end that is not finite, of an overflow in half precision, counts as not seen: what is known once stays known.
    """
    static = [layer for layer in layers if layer.static]
    observers: list[QuantizedLayer | Point] = [layer for layer in static if layer.source is None]
    observers += _points(static)
    batch = []
    for one in observers:
        nothing = unseen(one.observed_range.device)
        batch.append(nothing if one.seen is None else one.seen.where(one.seen.isfinite(), nothing))
    for one, seen in zip(observers, reduce_over_ranks(batch), strict=True):
        inputs = one.scheme.activations if isinstance(one, QuantizedLayer) else one.scheme
        assert inputs is not None
        one.observed_range.copy_(followed(one.observed_range, seen, inputs))
        one.seen, one.tokens = None, None
    for layer in static:
        if layer.source is not None:
            layer.input_range.copy_(layer.source.observed_range)
    # Off the range of all ranks: what one of them saw, all of them round. Asked until it is known, as that waits.
    if not all(layer.ranged and all(point.ranged for point in layer.points) for layer in static):
        find_ranged(static)


def _points(layers: Iterable[QuantizedLayer]) -> list[Point]:
    """The points whose ranges these layers hold."""
    return [point for layer in layers for point in layer.points]


def find_ranged(layers: Iterable[QuantizedLayer]) -> None:
    """Find out which layers know the range of their inputs, and points theirs; after a state dict was loaded, too."""
    static = [layer for layer in layers if layer.static and layer.mode != "frozen"]
    observers: list[QuantizedLayer | Point] = [*static, *_points(static)]
    if observers:
        known = torch.stack([one.observed_range for one in observers]).isfinite().all(1)
        for one, ranged in zip(observers, known.tolist(), strict=True):
            one.ranged = ranged


@torch.no_grad()
def start_scales(layers: Iterable[QuantizedLayer]) -> None:
    """Start the trained scales from the weights as they are now, and those of inputs from the observed ranges."""
    for layer in layers:
        if layer.scheme.weights.trains and not layer.held:
            layer.weight_scale.copy_(layer.initial_scale())
        if layer.learns_input:
            layer.input_change.zero_()


def restore(layer: QuantizedLayer) -> None:
    """Make a layer that is not frozen the plain module that it was."""
    for name in (
        "input_range",
        "input_change",
        "weight_scale",
        "weight_zero_point",
        "held",
        "scheme",
        "mode",
        "observing",
        "seen",
        "tokens",
        "calls",
        "places",
        "ranged",
        "points",
        "source",
    ):
        if hasattr(layer, name):
            delattr(layer, name)
    layer.__class__ = layer.plain  # type: ignore[assignment]


@torch.no_grad()
def freeze(layers: Iterable[QuantizedLayer]) -> None:
    """Quantize the weights for good, drop the observers, and keep what an integer layer needs.

    Args:
        layers: All layers that share weights together: once the first has rounded them, the others' grids differ.
    """
    found = [(layer, layer.grid()) for layer in layers if layer.mode != "frozen"]
    for layer, at in found:
        freeze_outputs(layer)
        layer.parameter.copy_(layer.on_grid(at))
        scale, zero_point = None, None
        if layer.static:
            scale, zero_point = layer.input_qparams()
        _drop_trained(layer)
        _freeze_as(layer, at, scale, zero_point)


def _drop_trained(layer: QuantizedLayer) -> None:
    """Take from a layer what only training needs."""
    _drop_input(layer)
    if layer.scheme.weights.trains:
        del layer.weight_scale


def _drop_input(layer: QuantizedLayer) -> None:
    if layer.static:
        del layer.input_range
    if layer.learns_input:
        del layer.input_change


def _freeze_as(layer: QuantizedLayer, at: Grid, scale: Tensor | None, zero_point: Tensor | None) -> None:
    def integer(value: Tensor | None) -> Tensor | None:
        return None if value is None else value.to(torch.int32)

    layer.mode, layer.observing, layer.seen = "frozen", False, None
    layer.register_buffer("weight_scale", at.scale.clone())
    layer.register_buffer("weight_zero_point", integer(at.zero_point))
    layer.register_buffer("input_scale", scale)
    layer.register_buffer("input_zero_point", integer(zero_point))


def freeze_structure(module: nn.Module, scheme: LayerScheme) -> QuantizedLayer:
    """A frozen layer of ``module`` whose values are for a state dict to fill."""
    layer = quantize_layer(module, scheme)
    weights, device = scheme.weights, layer.weight.device
    scale = torch.ones(scale_shape(layer.rows.shape, weights), device=device)
    one, static = torch.ones((), device=device), layer.static
    _drop_trained(layer)
    at = Grid(scale, None if weights.symmetric else scale)
    _freeze_as(layer, at, one if static else None, one.clone() if static else None)
    return layer


def finish(layers: Mapping[str, QuantizedLayer]) -> dict[str, QuantizedLayer]:
    """Freeze the layers; of those whose static input was never seen the weights alone.

    Such a layer was never called, but others may have read its weight, which was rounded for them too.

    Returns:
        The layers.
    """
    blind = [name for name, layer in layers.items() if layer.static and not layer.ranged]
    hand_over(layers, blind)
    for name in blind:
        _drop_input(layers[name])
        layers[name].scheme = replace(layers[name].scheme, activations=None)
    shared = [name for name, layer in layers.items() if layer.places > 1 and layer.source is None]
    shared += dict.fromkeys(p.module or "the model" for p in _points(layers.values()) if p.places > 1)
    if blind and is_rank_zero():
        _log.warning("only their weights are rounded, as no input came while ranges were observed: %s", _listed(blind))
    if shared and is_rank_zero():
        said = "are called several times in a pass, with one range for all their inputs (kind: dynamic has none): %s"
        _log.warning(said, _listed(shared))
    freeze(layers.values())
    return dict(layers)


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more


@contextmanager
def as_float(model: nn.Module) -> Iterator[None]:
    """Without rounding, inside the block; layers that are frozen stay so."""
    layers = [layer for layer in quantized_layers(model).values() if layer.mode == "fake"]
    for layer in layers:
        layer.mode = "float"
    try:
        yield
    finally:
        for layer in layers:
            layer.mode = "fake"
