"""From frozen quantized layers to the layers that are exported: with integers, or plain ones."""

from __future__ import annotations

import copy
from functools import cached_property
from typing import cast

import torch
from torch import Tensor, nn

from distill.compression.operations import places_of, unwatch, watch
from distill.compression.quantization.convolutions import QuantizedConv, QuantizedConvTranspose
from distill.compression.quantization.derived import DerivedConv, recast
from distill.compression.quantization.layers import (
    QuantizedEmbedding,
    QuantizedLayer,
    QuantizedTransposedLinear,
    multiplies_integers,
    quantized_layers,
)
from distill.core.internals.torch import convolution
from distill.export.onnx.integer_convolutions import Convolve, StaticConv, WeightOnlyConv
from distill.export.onnx.integer_layers import (
    DynamicInput,
    DynamicLinear,
    IntegerEmbedding,
    StaticInput,
    StaticLinear,
    WeightOnlyLinear,
    shifted,
)
from distill.export.onnx.level_layers import LevelConv, LevelEmbedding, LevelLinear, Levels
from distill.export.onnx.nibbles import NibbleEmbedding, NibbleLinear, Nibbles

__all__ = ["frozen_layers", "largest_integer", "with_integers", "without_quantization"]

_FROZEN_STATE = ("weight_scale", "weight_zero_point", "input_scale", "input_zero_point")
_FROZEN_OUTPUTS = ("output_scales", "output_zero_points")


def frozen_layers(model: nn.Module) -> dict[str, QuantizedLayer]:
    """The quantized layers of a model whose weights are frozen, by name."""
    return {name: layer for name, layer in quantized_layers(model).items() if layer.mode == "frozen"}


def largest_integer(layers: dict[str, QuantizedLayer]) -> int:
    """The largest magnitude of a weight that is multiplied as an integer; 0 where there is none."""
    return max((int(x.integers().int().abs().max()) for x in layers.values() if multiplies_integers(x)), default=0)


def without_quantization(model: nn.Module) -> nn.Module:
    """A copy whose frozen layers are plain: weights stay quantized, inputs are no longer rounded."""
    model = copy.deepcopy(model)
    for layer in frozen_layers(model).values():
        for name in (*_FROZEN_STATE, *(_FROZEN_OUTPUTS if layer.points else ())):
            delattr(layer, name)
        layer.points, layer.source = [], None
        layer.__class__ = layer.plain  # type: ignore[assignment]
    unwatch(model)
    return model


def with_integers(model: nn.Module, *, unsigned: bool) -> nn.Module:
    """A copy for :func:`~distill.export.onnx.graph.to_onnx` whose frozen layers hold integers.

    Args:
        model: With frozen layers; elsewhere it stays as it is.
        unsigned: Store the weights of integer products as uint8 around 128.
    """
    model = copy.deepcopy(model)
    integers: dict[int, _Integers] = {}  # one matrix a weight, however many layers compute with it
    made: dict[nn.Module, nn.Module] = {}
    for layer in frozen_layers(model).values():
        if id(layer.weight) not in integers:
            integers[id(layer.weight)] = _Integers(layer)
        made[layer] = _integer_layer(layer, integers[id(layer.weight)], unsigned)
    for frozen, integer in made.items():
        _take_points(cast(QuantizedLayer, frozen), integer)
    names = list(model.named_modules(remove_duplicate=False))  # a layer may stand under several names
    watched = bool(places_of(model))
    for name, module in names:
        if module in made:
            parent, _, attribute = name.rpartition(".")
            setattr(model.get_submodule(parent), attribute, made[module])
    if watched:
        watch(model, set(made.values()))
    return model


def _take_points(layer: QuantizedLayer, integer: nn.Module) -> None:
    """Have the layer in whose place ``integer`` is put hold what rounds at its points, in its stead."""
    if not layer.points:
        return
    grids = zip(layer.output_scales, layer.output_zero_points, strict=True)
    inputs = [StaticInput(*grid, point.scheme.bounds) for grid, point in zip(grids, layer.points, strict=True)]
    integer.add_module("outputs", nn.ModuleList(inputs))
    for point, rounding in zip(layer.points, inputs, strict=True):
        point.exported = rounding


class _Integers:
    """The integers of a weight, made once in each form that layers hold."""

    def __init__(self, layer: QuantizedLayer) -> None:
        self._layer, integers = layer, layer.integers()
        self.rows = integers.t() if isinstance(layer, QuantizedTransposedLinear) else integers

    @cached_property
    def levels(self) -> Levels:
        """By codes of levels, of a format that is none of integers."""
        rows = self._layer.as_rows(self._layer.integers())
        return Levels(rows, self._layer.weight_scale, self._layer.scheme.weights)

    @cached_property
    def nibbles(self) -> Nibbles | None:
        """Two to a byte; ``None`` where they are larger, or no operator reads them so."""
        if self._layer.scheme.weights.bits > 4:
            return None
        return Nibbles.of(self.rows, self._layer.weight_scale, self._layer.weight_zero_point)


def _convolve(layer: QuantizedConv) -> Convolve:
    """What the layer does, its own padding included."""
    return recast(layer) if isinstance(layer, DerivedConv) else convolution(layer)


def _level_layer(layer: QuantizedLayer, levels: Levels) -> nn.Module:
    if isinstance(layer, QuantizedEmbedding):
        return LevelEmbedding(levels)
    bias = layer.bias.detach() if isinstance(layer.bias, Tensor) else None
    if isinstance(layer, QuantizedConv):
        dims = tuple(range(1, layer.weight.dim()))
        return LevelConv(_convolve(layer), _input(layer, dims), levels, layer.weight.shape, bias)
    if isinstance(layer, QuantizedConvTranspose):
        dims = tuple(range(1, layer.weight.dim()))
        return LevelConv(layer.convolve, _input(layer, dims), levels, levels.codes.shape, bias)
    return LevelLinear(_input(layer), levels, bias)


def _integer_layer(layer: QuantizedLayer, q: _Integers, unsigned: bool) -> nn.Module:
    if layer.scheme.weights.format != "int":
        return _level_layer(layer, q.levels)
    if isinstance(layer, QuantizedEmbedding):
        if q.nibbles is not None:
            return NibbleEmbedding(q.nibbles)
        return IntegerEmbedding(q.rows, layer.weight_scale, layer.weight_zero_point)
    bias = layer.bias.detach() if isinstance(layer.bias, Tensor) else None
    if isinstance(layer, (QuantizedConv, QuantizedConvTranspose)):
        return _conv(layer, q.rows, unsigned, bias)
    return _linear(layer, q, unsigned, bias)


def _linear(layer: QuantizedLayer, q: _Integers, unsigned: bool, bias: Tensor | None) -> nn.Module:
    input = _input(layer)
    if not multiplies_integers(layer):
        if q.nibbles is not None:
            return NibbleLinear(input, q.nibbles, bias)
        return WeightOnlyLinear(input, q.rows.contiguous(), layer.weight_scale, layer.weight_zero_point, bias)
    weight, zero_point = _stored(layer, q.rows.t().contiguous(), unsigned)
    if isinstance(input, DynamicInput):
        return DynamicLinear(input, weight, layer.weight_scale, zero_point, bias)
    assert input is not None  # or its product would not be one of integers
    return StaticLinear(input, weight, layer.weight_scale, zero_point, bias)


def _conv(layer: QuantizedConv | QuantizedConvTranspose, q: Tensor, unsigned: bool, bias: Tensor | None) -> nn.Module:
    input = _input(layer, dims=tuple(range(1, layer.weight.dim())))  # one grid a sample
    if isinstance(layer, QuantizedConvTranspose):  # runtimes have no product of integers for it
        rows = layer.as_rows(q).contiguous()
        return WeightOnlyConv(layer.convolve, input, rows, layer.weight_scale, layer.weight_zero_point, bias)
    convolve = _convolve(layer)
    if not multiplies_integers(layer):
        return WeightOnlyConv(convolve, input, q, layer.weight_scale, layer.weight_zero_point, bias)
    assert isinstance(input, StaticInput)
    weight, zero_point = _stored(layer, q, unsigned)
    return StaticConv(convolve, input, weight, layer.weight_scale, zero_point, bias)


def _stored(layer: QuantizedLayer, integers: Tensor, unsigned: bool) -> tuple[Tensor, Tensor]:
    """Integers that are multiplied, and their zero point."""
    zero_point = layer.weight_zero_point
    zero_point = (torch.zeros_like(layer.weight_scale) if zero_point is None else zero_point).to(torch.int8)
    return shifted(integers, zero_point) if unsigned else (integers, zero_point)


def _input(layer: QuantizedLayer, dims: tuple[int, ...] = (-1,)) -> StaticInput | DynamicInput | None:
    """How the layer's input is rounded."""
    scheme = layer.scheme.activations
    if scheme is None:
        return None
    if not layer.static:
        return DynamicInput(scheme.bounds, scheme.symmetric, dims)
    assert layer.input_scale is not None
    assert layer.input_zero_point is not None
    return StaticInput(layer.input_scale, layer.input_zero_point, scheme.bounds)
