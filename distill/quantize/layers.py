"""Layers that compute with quantised weights and inputs; a module becomes one in place, by its class.

Parameters, ties, hooks and names stay as they are.

A layer is in one of three modes. ``float``: exactly the plain layer. ``fake``: weights and inputs are fake-quantised in
every pass, weights on the grid that they have at that moment. ``frozen``: the weights lie on their grid for good, and
only the input is still rounded. Attributes of a frozen layer, from which an integer layer is made:

======================  ============================================================================================
``weight``              the parameter, scale * (q - zero point) in floating point
``weight_scale``        float32: ``[]``, ``[out]`` or ``[out, in / group_size]`` by granularity
``weight_zero_point``   int32, of the scale's shape; ``None`` for symmetric weights
``integers()``          q, int8, of the weight's own shape
``input_scale``         float32 ``[]``; ``None`` unless inputs are static
``input_zero_point``    int32 ``[]``, likewise
``scheme``              :class:`~distill.quantize.scheme.LayerScheme`; its ``bounds`` are the ranges of the integers
======================  ============================================================================================
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, ClassVar, Literal, Self, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.pytorch_utils import Conv1D

from distill.own_pass import in_own_pass
from distill.quantize.fake import at_least_float32, beside, fake_quantize, positive
from distill.quantize.inputs import fake_quantize_input_learned, learned_qparams, no_change
from distill.quantize.observers import batch_range, dynamic_qparams, input_qparams, unseen, widest
from distill.quantize.scheme import ActivationScheme, LayerScheme
from distill.quantize.weights import (
    Grid,
    count,
    fake_quantize_rows,
    fake_quantize_rows_learned,
    grid,
    initial_scale,
    integers_of,
    scale_shape,
    values_of,
)

__all__ = [
    "QUANTIZED",
    "QuantizedConv1d",
    "QuantizedConv2d",
    "QuantizedEmbedding",
    "QuantizedLayer",
    "QuantizedLinear",
    "QuantizedTransposedLinear",
    "quantize_layer",
    "quantized_layers",
]

Mode = Literal["float", "fake", "frozen"]


class QuantizedLayer(nn.Module):
    """What the quantised layers have in common.

    Attributes:
        scheme: How weights and inputs are rounded.
        mode: See above.
        observing: Whether training batches widen :attr:`seen`.
        seen: The range of the inputs since it was last taken, ``[2]``; ``None`` where there were none.
        tokens: Which positions of the batch that is read now hold a token, ``[B, T]``; ``None`` where all do.
        ranged: Whether :attr:`input_range` is known; until then static inputs stay as they are.
    """

    plain: ClassVar[type[nn.Module]]
    weight: Tensor
    scheme: LayerScheme
    mode: Mode
    observing: bool
    seen: Tensor | None
    tokens: Tensor | None
    ranged: bool
    input_range: Tensor
    input_change: Tensor
    weight_scale: Tensor
    weight_zero_point: Tensor | None
    input_scale: Tensor | None
    input_zero_point: Tensor | None

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        # Ranges and scales stay float32 where the model is converted to half precision.
        before = dict(self._buffers)
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for name, buffer in before.items():
            now = self._buffers[name]
            if buffer is not None and now is not None and now.element_size() < buffer.element_size():
                self._buffers[name] = buffer.to(now.device)
        return self

    @property
    def static(self) -> bool:
        """Whether the input has a scale that an observer finds."""
        return self.scheme.activations is not None and self.scheme.activations.kind == "static"

    @property
    def learns_input(self) -> bool:
        """Whether the scale of the input is trained, by :attr:`input_change`, once its range is known."""
        return self.scheme.activations is not None and self.scheme.activations.learned

    def __getattr__(self, name: str) -> Any:
        # Another module's forward that reads the weight (a tied head: F.linear(x, embedding.weight)) gets it rounded.
        if name == "weight" and self.__dict__.get("mode") == "fake" and in_own_pass():
            return self.quantized_weight()
        return super().__getattr__(name)

    @property
    def parameter(self) -> nn.Parameter:
        """The weight that is trained, whoever asks."""
        return cast(nn.Parameter, self._parameters["weight"])

    def as_rows(self, weight: Tensor) -> Tensor:
        """A view of a weight as ``[out, in]``."""
        return weight.flatten(1)

    def from_rows(self, rows: Tensor) -> Tensor:
        """Rows in the shape of the weight."""
        return rows.reshape(self.parameter.shape)

    @property
    def rows(self) -> Tensor:
        """The weight as ``[out, in]``."""
        return self.as_rows(self.parameter)

    def integers(self) -> Tensor:
        """The integers q of a frozen layer's weight, int8, of its own shape."""
        return self.from_rows(integers_of(self.rows, self.grid(), self.scheme.weights)).to(torch.int8).contiguous()

    def on_grid(self, at: Grid) -> Tensor:
        """The weight laid on the grid ``at``."""
        scheme = self.scheme.weights
        return self.from_rows(values_of(integers_of(self.rows, at, scheme), at, scheme))

    def dequantize(self, integers: Tensor, at: Grid) -> Tensor:
        """scale * (q - zero point), of the weight's shape and dtype, from its integers."""
        rows = values_of(self.as_rows(integers).to(at.scale.dtype), at, self.scheme.weights)
        return self.from_rows(rows).to(self.parameter.dtype).contiguous()

    def grid(self) -> Grid:
        """Where the weights lie now, or would lie."""
        if self.mode == "frozen":
            return Grid(self.weight_scale, self.weight_zero_point)
        if self.scheme.weights.learned:
            return Grid(positive(self._scale().detach()), None)
        return grid(self.rows, self.scheme.weights)

    def initial_scale(self) -> Tensor:
        """What a trained scale starts from; flat, as optimizers let nothing decay that has one dimension."""
        scale = initial_scale(self.rows, self.scheme.weights)
        return scale.flatten() if scale.dim() > 1 else scale

    def _scale(self) -> Tensor:
        return self.weight_scale.view(scale_shape(self.rows.shape, self.scheme.weights))

    def quantized_weight(self) -> Tensor:
        """The weight that the layer computes with."""
        return self.from_rows(self.fake_rows(self.rows)) if self.mode == "fake" else self._untouched(self.parameter)

    def _untouched(self, weight: Tensor) -> Tensor:
        # A trained scale has a gradient, of zeros, before it is used too: DDP waits for one from every parameter.
        waits = self.training and self.mode == "float" and self.scheme.weights.learned
        return beside(weight, self.weight_scale) if waits else weight

    def fake_rows(self, rows: Tensor, index: Tensor | None = None) -> Tensor:
        """Rows of the weights, rounded; ``index`` says which where they are not all."""
        scheme = self.scheme.weights
        whole = scheme.granularity == "tensor"
        if not scheme.learned:
            return fake_quantize_rows(rows, grid(self.rows if whole else rows, scheme), scheme)
        scale = self._scale() if whole or index is None else self._scale()[index]
        return fake_quantize_rows_learned(rows, scale, scheme, count(self.rows.shape, scheme))

    def quantized_input(self, x: Tensor) -> Tensor:
        """The input that the layer computes with; while observing, its range is noted."""
        scheme = self.scheme.activations
        if scheme is None:
            return x
        if self.observing and self.training:
            self._observe(x)
        if self.mode == "float" or (self.mode == "fake" and self.static and not self.ranged):
            return beside(x, self.input_change) if self.training and self.learns_input else x
        return self._rounded(x, scheme).to(x.dtype)

    def _rounded(self, x: Tensor, scheme: ActivationScheme) -> Tensor:
        if not self.static:
            return fake_quantize(x, *dynamic_qparams(x, scheme, self._sharing(x)), scheme.bounds)
        if self.mode == "fake" and scheme.learned:
            features = math.prod(x.shape[dim] for dim in self._sharing(x))
            return fake_quantize_input_learned(x, self.input_range, self.input_change, scheme, features)
        if self.mode == "fake":
            return fake_quantize(x, *self.input_qparams(), scheme.bounds)
        assert self.input_scale is not None
        assert self.input_zero_point is not None
        # The one operator that exporters know as quantise and dequantise; on numbers it gives the same bits.
        return torch.fake_quantize_per_tensor_affine(
            at_least_float32(x), self.input_scale, self.input_zero_point, *scheme.bounds
        )

    def input_qparams(self) -> tuple[Tensor, Tensor]:
        """Scale and zero point of a static input as they are now; not of a frozen layer."""
        assert self.scheme.activations is not None
        if self.learns_input:
            return learned_qparams(self.input_range, self.input_change, self.scheme.activations)
        return input_qparams(self.input_range, self.scheme.activations)

    @torch.no_grad()
    def _observe(self, x: Tensor) -> None:
        assert self.scheme.activations is not None
        found = batch_range(self._by_position(x), self.scheme.activations, self.tokens)
        self.seen = found if self.seen is None else widest(self.seen, found)

    def _by_position(self, x: Tensor) -> Tensor:
        """The input, with its features last where it is a sequence of positions."""
        return x

    def _sharing(self, x: Tensor) -> tuple[int, ...]:
        """Dimensions of the input along which a dynamic scale is shared."""
        return (-1,)


class QuantizedLinear(QuantizedLayer, nn.Linear):
    """A linear map."""

    plain = nn.Linear

    def forward(self, input: Tensor) -> Tensor:
        return F.linear(self.quantized_input(input), self.quantized_weight(), self.bias)


class QuantizedTransposedLinear(QuantizedLayer, Conv1D):  # type: ignore[misc]
    """GPT-2's linear map, whose weight is stored as ``[in, out]``."""

    plain = Conv1D

    def as_rows(self, weight: Tensor) -> Tensor:
        return weight.t()

    def from_rows(self, rows: Tensor) -> Tensor:
        return rows.t()

    def forward(self, x: Tensor) -> Tensor:
        x = self.quantized_input(x)
        out = torch.addmm(self.bias, x.view(-1, x.size(-1)), self.quantized_weight())
        return out.view(*x.shape[:-1], self.nf)


class QuantizedEmbedding(QuantizedLayer, nn.Embedding):
    """A table, of which only the rows that are looked up are rounded where they do not share their scale."""

    plain = nn.Embedding

    def forward(self, input: Tensor) -> Tensor:
        options = self.padding_idx, self.max_norm, self.norm_type, self.scale_grad_by_freq, self.sparse
        rows = F.embedding(input, self.parameter, *options)
        if self.mode != "fake":
            return self._untouched(rows)
        return self.fake_rows(rows.flatten(0, -2), input.flatten()).view(rows.shape)


class _QuantizedConv(QuantizedLayer, nn.modules.conv._ConvNd):
    def _sharing(self, x: Tensor) -> tuple[int, ...]:
        return tuple(range(x.dim() - self.parameter.dim() + 1, x.dim()))

    def forward(self, input: Tensor) -> Tensor:
        x = self.quantized_input(input)
        return cast(Any, self)._conv_forward(x, self.quantized_weight(), self.bias)  # type: ignore[no-any-return]


class QuantizedConv1d(_QuantizedConv, nn.Conv1d):
    """A convolution over a sequence."""

    plain = nn.Conv1d

    def _by_position(self, x: Tensor) -> Tensor:
        return x.mT


class QuantizedConv2d(_QuantizedConv, nn.Conv2d):
    """A convolution over an image."""

    plain = nn.Conv2d


_CLASSES: tuple[type[QuantizedLayer], ...] = (
    QuantizedLinear,
    QuantizedTransposedLinear,
    QuantizedEmbedding,
    QuantizedConv1d,
    QuantizedConv2d,
)
QUANTIZED: dict[type[nn.Module], type[QuantizedLayer]] = {kind.plain: kind for kind in _CLASSES}
"""Plain class -> the class that it becomes. Exactly these: what is derived from them may compute something else."""


def quantized_layers(model: nn.Module) -> dict[str, QuantizedLayer]:
    """The quantised layers of a model by name, each once."""
    return {name: module for name, module in model.named_modules() if isinstance(module, QuantizedLayer)}


def quantize_layer(module: nn.Module, scheme: LayerScheme) -> QuantizedLayer:
    """Make ``module``, of a class in :data:`QUANTIZED`, a quantised layer in ``float`` mode, in place."""
    module.__class__ = QUANTIZED[type(module)]
    layer = cast(QuantizedLayer, module)
    layer.scheme, layer.mode, layer.observing, layer.ranged = scheme, "float", False, False
    layer.seen, layer.tokens = None, None
    if scheme.weights.learned:
        layer.weight_scale = nn.Parameter(layer.initial_scale())
    if layer.static:
        layer.register_buffer("input_range", unseen(layer.weight.device))
    if scheme.activations is not None and scheme.activations.learned:
        layer.input_change = nn.Parameter(no_change(scheme.activations, layer.weight.device))
    return layer
