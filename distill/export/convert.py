"""From frozen quantised layers to the layers that are exported: with integers, or plain ones."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from distill.errors import UserError
from distill.export.integers import (
    DynamicInput,
    DynamicLinear,
    IntegerEmbedding,
    NibbleLinear,
    StaticInput,
    StaticLinear,
    WeightOnlyLinear,
    shifted,
)
from distill.quantize.layers import (
    QuantizedEmbedding,
    QuantizedLayer,
    QuantizedLinear,
    QuantizedTransposedLinear,
    quantized_layers,
)

__all__ = ["frozen_layers", "largest_integer", "multiplies_integers", "with_integers", "without_quantization"]

_FROZEN_STATE = ("weight_scale", "weight_zero_point", "input_scale", "input_zero_point")


def frozen_layers(model: nn.Module) -> dict[str, QuantizedLayer]:
    """The quantised layers of a model whose weights lie on their grids, by name."""
    return {name: layer for name, layer in quantized_layers(model).items() if layer.mode == "frozen"}


def multiplies_integers(layer: QuantizedLayer) -> bool:
    """Whether both sides of the layer's product are integers of one scale each: what a runtime multiplies as such."""
    linear = isinstance(layer, (QuantizedLinear, QuantizedTransposedLinear))
    return linear and layer.scheme.activations is not None and layer.scheme.weights.group_size is None


def largest_integer(layers: dict[str, QuantizedLayer]) -> int:
    """The largest magnitude of a weight that is multiplied as an integer; 0 where there is none."""
    return max((int(x.integers().int().abs().max()) for x in layers.values() if multiplies_integers(x)), default=0)


def without_quantization(model: nn.Module) -> nn.Module:
    """A copy whose frozen layers are plain: weights stay on their grid, inputs are no longer rounded."""
    model = copy.deepcopy(model)
    for layer in frozen_layers(model).values():
        for name in _FROZEN_STATE:
            delattr(layer, name)
        layer.__class__ = layer.plain  # type: ignore[assignment]
    return model


def with_integers(model: nn.Module, *, unsigned: bool) -> nn.Module:
    """A copy for :func:`~distill.export.graph.to_onnx` whose frozen layers hold integers.

    Args:
        model: With frozen layers; elsewhere it stays as it is.
        unsigned: Store the weights of integer products as uint8 around 128.

    Raises:
        UserError: if a quantised layer is neither a linear map nor an embedding.
    """
    model = copy.deepcopy(model)
    integers: dict[int, Tensor] = {}  # one matrix a weight, however many layers compute with it
    for name, layer in frozen_layers(model).items():
        q = integers.setdefault(id(layer.weight), layer.integers())
        parent = model.get_submodule(name.rpartition(".")[0])
        setattr(parent, name.rpartition(".")[2], _integer_layer(name, layer, q, unsigned))
    return model


def _integer_layer(name: str, layer: QuantizedLayer, q: Tensor, unsigned: bool) -> nn.Module:
    zero_point = layer.weight_zero_point
    if isinstance(layer, QuantizedEmbedding):
        return IntegerEmbedding(q, layer.weight_scale, zero_point)
    if not isinstance(layer, (QuantizedLinear, QuantizedTransposedLinear)):
        raise UserError(
            f"{name} is a {layer.plain.__name__}, and linear maps and embeddings are exported as integers",
            key="--to",
            value="onnx-int8",
            mend="leave it out of the quantisation, or export to onnx",
        )
    input, bias = _input(layer), None if layer.bias is None else layer.bias.detach()
    rows = q.t() if isinstance(layer, QuantizedTransposedLinear) else q
    if not multiplies_integers(layer):
        scheme = layer.scheme.weights
        weights_only = NibbleLinear if NibbleLinear.holds(scheme.bits, scheme.group_size) else WeightOnlyLinear
        return weights_only(input, rows.contiguous(), layer.weight_scale, zero_point, bias)
    columns = rows.t().contiguous()
    zero_point = (torch.zeros_like(layer.weight_scale) if zero_point is None else zero_point).to(torch.int8)
    if unsigned:
        columns, zero_point = shifted(columns, zero_point)
    weight = columns, layer.weight_scale, zero_point, bias
    if isinstance(input, DynamicInput):
        return DynamicLinear(input, *weight)
    assert input is not None  # or its product would not be one of integers
    return StaticLinear(input, *weight)


def _input(layer: QuantizedLayer) -> StaticInput | DynamicInput | None:
    """How the layer's input is rounded."""
    scheme = layer.scheme.activations
    if scheme is None:
        return None
    if not layer.static:
        return DynamicInput(scheme.bounds, scheme.symmetric)
    assert layer.input_scale is not None
    assert layer.input_zero_point is not None
    return StaticInput(layer.input_scale, layer.input_zero_point, scheme.bounds)
