"""What quantized layers have in common: modes, grids, observers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, cast

import torch
from torch import Tensor, nn

from distill.compression.own_pass import in_backward, in_own_pass
from distill.compression.quantization.fake import beside, fake_quantize, positive
from distill.compression.quantization.learned_inputs import fake_quantize_input_learned, learned_qparams
from distill.compression.quantization.observers import batch_range, dynamic_qparams, input_qparams, widest
from distill.compression.quantization.scheme import ActivationScheme, LayerScheme
from distill.compression.quantization.weights import (
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
from distill.core.internals.torch import Moved, own_buffers, own_parameters
from distill.core.numerics import at_least_float32
from distill.core.signals import Positions

if TYPE_CHECKING:
    from distill.compression.quantization.outputs import Point

__all__ = ["Mode", "QuantizedLayer"]

Mode = Literal["float", "fake", "frozen"]


class QuantizedLayer(Moved):
    """What the quantized layers have in common.

    Attributes:
        scheme: How weights and inputs are rounded.
        mode: See :mod:`distill.compression.quantization.layers`.
        observing: Whether training batches widen :attr:`seen`.
        seen: The range of the inputs since it was last taken, ``[2]``; ``None`` where there were none.
        tokens: Which positions of the batch that is read now hold a token, ``[B, T]``; ``None`` where all do.
        calls: How often the input of this batch was observed: several times where a module is used at several places.
        places: The most of these.
        ranged: Whether :attr:`input_range` is known; until then static inputs stay as they are.
        held: Whether the weights' grid stands still, in ``weight_scale`` and ``weight_zero_point``, and does not follow
            the largest weight.
        points: The points whose ranges this layer holds (:mod:`~distill.compression.quantization.outputs`).
        source: The point that its input comes from, whose range is then that of the input too.
    """

    plain: ClassVar[type[nn.Module]]
    weight: Tensor
    scheme: LayerScheme
    mode: Mode
    observing: bool
    seen: Tensor | None
    tokens: Positions
    calls: int
    places: int
    ranged: bool
    held: bool
    points: Sequence[Point]
    source: Point | None
    output_ranges: Tensor
    output_scales: Tensor
    output_zero_points: Tensor
    input_range: Tensor
    input_change: Tensor
    weight_scale: Tensor
    weight_zero_point: Tensor | None
    input_scale: Tensor | None
    input_zero_point: Tensor | None

    def moved(self, before: dict[str, Tensor | None]) -> None:
        # Ranges and scales stay float32 where the model is converted to half precision.
        buffers = own_buffers(self)
        for name, buffer in before.items():
            now = buffers[name]
            if buffer is not None and now is not None and now.element_size() < buffer.element_size():
                buffers[name] = buffer.to(now.device)

    def awaits(self, state: Mapping[str, Any], prefix: str) -> None:
        # Whether anything is rounded between layers is known once a batch is read, which is later.
        ranges = state.get(f"{prefix}output_ranges")
        if ranges is not None and self.mode != "frozen" and not hasattr(self, "output_ranges"):
            self.register_buffer("output_ranges", torch.empty_like(ranges, device=self.parameter.device))

    @property
    def observed_range(self) -> Tensor:
        """The range of the input, ``[2]``."""
        return self.input_range

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
        return cast(nn.Parameter, own_parameters(self)["weight"])

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
        """The integers q of a frozen layer's weight, of its own shape: int8, or int16 above 8 bits."""
        dtype = torch.int8 if self.scheme.weights.bits <= 8 else torch.int16
        return self.from_rows(integers_of(self.rows, self.grid(), self.scheme.weights)).to(dtype).contiguous()

    def on_grid(self, at: Grid) -> Tensor:
        """The weight quantized to the grid ``at``."""
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
        if self.scheme.weights.format == "kmeans":
            return Grid(at_least_float32(self._scale().detach()), None)
        if self.scheme.weights.learned:
            return Grid(positive(self._scale().detach()), None)
        return Grid(self.weight_scale, self.weight_zero_point) if self.held else grid(self.rows, self.scheme.weights)

    def hold(self, at: Grid) -> None:
        """Have the weights' grid be ``at``, from where a trained scale goes on, and any other stands still."""
        self.weight_scale.copy_(at.scale.reshape(self.weight_scale.shape))
        if at.zero_point is not None:
            assert self.weight_zero_point is not None
            self.weight_zero_point.copy_(at.zero_point)

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
        waits = self.training and self.mode == "float" and self.scheme.weights.trains
        return beside(weight, self.weight_scale) if waits else weight

    def fake_rows(self, rows: Tensor, index: Tensor | None = None) -> Tensor:
        """Rows of the weights, rounded; ``index`` says which where they are not all."""
        scheme = self.scheme.weights
        whole = scheme.granularity == "tensor"
        if self.held and not scheme.trains:
            return fake_quantize_rows(rows, self._held(None if whole else index), scheme, clips=True)
        if scheme.format == "nvfp4" and index is not None:  # a scale of the whole matrix
            return fake_quantize_rows(rows, Grid(grid(self.rows, scheme).scale[index], None), scheme)
        if not scheme.trains:
            return fake_quantize_rows(rows, grid(self.rows if whole else rows, scheme), scheme)
        scale = self._scale() if whole or index is None else self._scale()[index]
        return fake_quantize_rows_learned(rows, scale, scheme, count(self.rows.shape, scheme))

    def _held(self, index: Tensor | None) -> Grid:
        scale, zero_point = self.weight_scale, self.weight_zero_point
        if index is None:
            return Grid(scale, zero_point)
        return Grid(scale[index], None if zero_point is None else zero_point[index])

    def quantized_input(self, x: Tensor) -> Tensor:
        """The input that the layer computes with; while observing, its range is noted."""
        scheme = self.scheme.activations
        if scheme is None:
            return x
        if self.observing and self.training and self.source is None:
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
        if scheme.bits > 8:  # the zero point, added before rounding, would take digits
            return fake_quantize(x, self.input_scale, self.input_zero_point, scheme.bounds)
        # The one operator that exporters know as quantize and dequantize; on numbers it gives the same bits.
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
        if not in_backward():  # where a part of the pass is computed again
            self.calls += 1
            self.places = max(self.places, self.calls)
        found = batch_range(self.by_position(x), self.scheme.activations, self.tokens)
        self.seen = found if self.seen is None else widest(self.seen, found)

    def by_position(self, x: Tensor) -> Tensor:
        """The input, with its features last where it is a sequence of positions."""
        return x

    def _sharing(self, x: Tensor) -> tuple[int, ...]:
        """Dimensions of the input along which a dynamic scale is shared."""
        return (-1,)
