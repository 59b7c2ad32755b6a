"""Layers that compute with quantized weights and inputs; a module becomes one in place, by its class.

Parameters, ties, hooks and names stay as they are.

A layer is in one of three modes. ``float``: exactly the plain layer. ``fake``: weights and inputs are fake-quantized in
every pass, weights quantized anew each time. ``frozen``: the weights are quantized for good, and
only the input is still rounded. Attributes of a frozen layer, from which an integer layer is made:

======================  ============================================================================================
``weight``              the parameter, scale * (q - zero point) in floating point
``weight_scale``        float32: ``[]``, ``[out]`` or ``[out, in / group_size]`` by granularity
``weight_zero_point``   int32, of the scale's shape; ``None`` for symmetric weights
``integers()``          q, int8 (int16 above 8 bits), of the weight's own shape
``input_scale``         float32 ``[]``; ``None`` unless inputs are static
``input_zero_point``    int32 ``[]``, likewise
``scheme``              a :class:`LayerScheme`; its ``bounds`` are the ranges of the integers
======================  ============================================================================================
"""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn
from torch.nn import functional as F

from distill.compression.quantization.base import QuantizedLayer
from distill.compression.quantization.convolutions import (
    QuantizedConv,
    QuantizedConv1d,
    QuantizedConv2d,
    QuantizedConv3d,
    QuantizedConvTranspose1d,
    QuantizedConvTranspose2d,
    QuantizedConvTranspose3d,
)
from distill.compression.quantization.derived import computes_like_its_base, derived_class
from distill.compression.quantization.learned_inputs import no_change
from distill.compression.quantization.linear import QuantizedLinear, QuantizedTransposedLinear
from distill.compression.quantization.observers import unseen
from distill.compression.quantization.scheme import LayerScheme
from distill.compression.quantization.weights import grid

__all__ = [
    "QUANTIZED",
    "QuantizedEmbedding",
    "QuantizedLayer",
    "QuantizedLinear",
    "QuantizedTransposedLinear",
    "class_of",
    "multiplies_integers",
    "quantizable",
    "quantize_layer",
    "quantized_layers",
]


class QuantizedEmbedding(QuantizedLayer, nn.Embedding):
    """A table, of which only the rows that are looked up are rounded where they do not share their scale."""

    plain = nn.Embedding

    def forward(self, input: Tensor) -> Tensor:
        options = self.padding_idx, self.max_norm, self.norm_type, self.scale_grad_by_freq, self.sparse
        rows = F.embedding(input, self.parameter, *options)
        if self.mode != "fake":
            return self._untouched(rows)
        return self.fake_rows(rows.flatten(0, -2), input.flatten()).view(rows.shape)


_CLASSES: tuple[type[QuantizedLayer], ...] = (
    QuantizedLinear,
    QuantizedTransposedLinear,
    QuantizedEmbedding,
    QuantizedConv1d,
    QuantizedConv2d,
    QuantizedConv3d,
    QuantizedConvTranspose1d,
    QuantizedConvTranspose2d,
    QuantizedConvTranspose3d,
)
QUANTIZED: dict[type[nn.Module], type[QuantizedLayer]] = {kind.plain: kind for kind in _CLASSES}
"""Plain class -> the class that it becomes. What is derived may compute something else (:func:`quantizable`)."""


def quantizable(module: nn.Module) -> bool:
    """Whether it is of one of these classes, or of a class derived from one that computes nothing else."""
    return type(module) in QUANTIZED or computes_like_its_base(module)


def class_of(kind: type[nn.Module]) -> type[QuantizedLayer]:
    """What a module of this class becomes."""
    return QUANTIZED[kind] if kind in QUANTIZED else derived_class(kind)


def quantized_layers(model: nn.Module) -> dict[str, QuantizedLayer]:
    """The quantized layers of a model by name, each once."""
    return {name: module for name, module in model.named_modules() if isinstance(module, QuantizedLayer)}


def multiplies_integers(layer: QuantizedLayer) -> bool:
    """Whether both sides of the layer's product are integers of one scale each: what a runtime multiplies as such.

    Of convolutions a runtime knows those whose input has one grid, and whose weights have one zero point.
    """
    weights = layer.scheme.weights
    inputs = layer.scheme.activations
    if inputs is None or weights.format != "int" or weights.group_size is not None:
        return False
    if max(weights.bits, inputs.bits) > 8:
        return False
    if isinstance(layer, QuantizedConv):
        return layer.static and weights.symmetric
    return isinstance(layer, (QuantizedLinear, QuantizedTransposedLinear))


def quantize_layer(module: nn.Module, scheme: LayerScheme, *, held: bool = False) -> QuantizedLayer:
    """Make ``module``, which is :func:`quantizable`, a quantized layer in ``float`` mode, in place.

    Where its grid is ``held``, it begins as that of the weights as they are.
    """
    module.__class__ = class_of(type(module))
    layer = cast(QuantizedLayer, module)
    layer.scheme, layer.mode, layer.observing, layer.ranged = scheme, "float", False, False
    layer.seen, layer.tokens, layer.calls, layer.places, layer.held = None, None, 0, 0, held
    layer.points, layer.source = [], None
    if held and not scheme.weights.trains:
        at = grid(layer.rows, scheme.weights)
        layer.register_buffer("weight_scale", at.scale)
        layer.register_buffer("weight_zero_point", at.zero_point)
    if scheme.weights.trains:
        layer.weight_scale = nn.Parameter(layer.initial_scale())
    if layer.static:
        layer.register_buffer("input_range", unseen(layer.weight.device))
    if scheme.activations is not None and scheme.activations.learned:
        layer.input_change = nn.Parameter(no_change(scheme.activations, layer.weight.device))
    return layer
