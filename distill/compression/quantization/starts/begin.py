"""A model's quantized layers started: channels scaled, grids found, weights rounded."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from distill.compression.quantization.layers import QuantizedLayer, QuantizedLinear, QuantizedTransposedLinear
from distill.compression.quantization.scheme import WeightScheme
from distill.compression.quantization.starts.adaround import adaround
from distill.compression.quantization.starts.blocks import fitted_grid
from distill.compression.quantization.starts.equalize import awq_scale, smoothquant_scale
from distill.compression.quantization.starts.folding import Fold, find_folds
from distill.compression.quantization.starts.gptq import gptq
from distill.compression.quantization.starts.settings import Start
from distill.compression.quantization.starts.statistics import (
    InputStatistics,
    Reader,
    gather,
    hessian_bytes,
    is_read,
)
from distill.compression.quantization.weights import integers_of, values_of
from distill.core.internals.torch import tree_leaves
from distill.core.ranks import is_rank_zero
from distill.core.signals import Batch, Positions, Signals
from distill.core.utils.errors import UserError

__all__ = ["Progress", "reader", "refuse_formats", "start_weights"]

_log = logging.getLogger(__name__)

Progress = Callable[[Sequence[QuantizedLayer]], Iterable[QuantizedLayer]]

_MEMORY = 256 << 20
"""Bytes of statistics that are held at a time, of one layer at least."""

_PROBE = 2
"""Samples of the batch that folds are tried on."""


def reader(model: nn.Module, batches: Sequence[Any], forward: Callable[[nn.Module, Any], Any] | None) -> Reader:
    """Runs ``model`` over the batches; :data:`~.statistics.Reader`."""

    def read(begin: Callable[[Positions], None]) -> None:
        for batch in batches:
            begin(tokens_of(batch))
            model(batch) if forward is None else forward(model, batch)

    return read


def tokens_of(batch: Any) -> Positions:
    """Which positions of a batch hold a token, ``[B, T]``, where it says so."""
    if isinstance(batch, Batch):
        return batch.positions
    mask = batch.get("attention_mask") if isinstance(batch, Mapping) else None
    return mask.bool() if isinstance(mask, Tensor) and mask.dim() == 2 else None


def _computed(model: nn.Module, batch: Any, forward: Callable[[nn.Module, Any], Any] | None) -> Tensor:
    """What the model computes of a few samples, flat."""
    some = batch.first(_PROBE) if isinstance(batch, Batch) else batch
    result = model(some) if forward is None else forward(model, some)
    if isinstance(result, Signals):
        head = result.logits if result.lazy_logits is None else result.lazy_logits.hidden
        beside = result.hidden_states, result.attentions, result.projections, result.taps
        result = [head, *(list(signals.values()) for signals in beside)]
    leaves = [leaf.flatten().float() for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
    return torch.cat(leaves)


def refuse_formats(start: Start, schemes: Iterable[WeightScheme], key: str) -> None:
    """Refuse a start that finds grids for weights whose format has levels of its own.

    Raises:
        UserError: naming the format.
    """
    formats = sorted({scheme.format for scheme in schemes} - {"int"})
    if formats and start.holds_grids:
        problem = f"rounds to evenly spaced values, and format {formats[0]} has others"
        raise UserError(problem, key=f"{key}.start.method", value=start.method, hint="take rtn or smoothquant")


@torch.no_grad()
def start_weights(
    model: nn.Module,
    layers: Mapping[str, QuantizedLayer],
    start: Start,
    batches: Sequence[Any] = (),
    forward: Callable[[nn.Module, Any], Any] | None = None,
    progress: Progress = iter,
) -> dict[str, list[str]]:
    """Start the weights of ``layers`` in place, all in ``float`` mode; and their grids, where the start holds these.

    Channels are scaled first, by what the model reads in floating point. Then layers are rounded in the order of the
    model, some at a time: what later ones read comes from rounded weights.

    Args:
        model: In eval mode.
        layers: Its quantized layers, by name.
        start: How.
        batches: Whose inputs are looked at, without padding; none are needed for ``rtn`` and ``mse``.
        forward: How the model reads a batch.
        progress: Wraps the list of the layers that are rounded.

    Returns:
        ``scaled``: names of the layers whose inputs were scaled; ``rounded``: of those rounded by what they read.
    """
    shared = _shared(model)
    able = {name: x for name, x in layers.items() if is_read(x) and id(x.parameter) not in shared}
    read, said = reader(model, batches, forward), dict[str, list[str]](scaled=[], rounded=[])
    names = {layer: name for name, layer in layers.items()}
    if start.equalizer is not None:
        linear = [x for x in able.values() if isinstance(x, (QuantizedLinear, QuantizedTransposedLinear))]
        folds = find_folds(model, linear, partial(_computed, model, batches[0], forward))
        _equalize(folds, start, read)
        said["scaled"] = [names[layer] for fold in folds for layer in fold.consumers]
    if start.holds_grids:
        for name, layer in layers.items():
            if name not in able:
                _round(layer, None, start)
        chunks = {some[0]: some for some in _chunks(list(able.values()))}
        seen: dict[QuantizedLayer, InputStatistics] = {}
        for layer in progress(list(able.values())):
            if layer in chunks:
                seen.clear()
                seen |= gather(chunks[layer], read) if start.reads_inputs else {}
            _round(layer, seen.get(layer), start)
            if layer in seen and start.rounding != "mse":
                said["rounded"].append(names[layer])
    _say(start, said, layers)
    return said


def _shared(model: nn.Module) -> set[int]:
    """Weights that several modules compute with: what one of them reads says too little."""
    owners: dict[int, int] = {}
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            owners[id(parameter)] = owners.get(id(parameter), 0) + 1
    return {weight for weight, count in owners.items() if count > 1}


def _chunks(layers: Sequence[QuantizedLayer]) -> Iterator[list[QuantizedLayer]]:
    """In their order, as many at a time as :data:`_MEMORY` holds the statistics of."""
    some: list[QuantizedLayer] = []
    for layer in layers:
        if some and sum(map(hessian_bytes, [*some, layer])) > _MEMORY:
            yield some
            some = []
        some.append(layer)
    if some:
        yield some


def _equalize(folds: Sequence[Fold], start: Start, read: Reader) -> None:
    by_first = {fold.consumers[0]: fold for fold in folds}
    for some in _chunks(list(by_first)):
        for layer, seen in gather(some, read).items():
            fold = by_first[layer]
            rows = [(x.rows.float(), x.scheme.weights) for x in fold.consumers]
            if start.equalizer == "awq":
                scale, _ = awq_scale(rows, seen.hessian, seen.mean_size[0])
            else:
                largest = torch.stack([x.abs().amax(0) for x, _ in rows]).amax(0)
                scale = smoothquant_scale(seen.largest[0], largest, start.alpha)
            fold.scale(scale)


def _round(layer: QuantizedLayer, seen: InputStatistics | None, start: Start) -> None:
    """Find the layer's grid, round its weights, and have it hold the grid."""
    rows, scheme = layer.rows.detach(), layer.scheme.weights
    importance = None
    if seen is not None:
        squares = seen.hessian.diagonal(dim1=-2, dim2=-1)
        importance = squares[:, None].expand(-1, len(rows) // len(squares), -1).reshape(rows.shape)
    at = fitted_grid(rows, scheme, importance)
    if seen is None or start.rounding == "mse":
        integers = integers_of(rows, at, scheme)
    elif start.rounding == "gptq":
        integers = gptq(rows, seen.hessian, at, scheme, damping=start.damping, act_order=start.act_order)
    else:
        integers = adaround(rows, seen.hessian, at, scheme, steps=start.steps)
    layer.parameter.copy_(layer.from_rows(values_of(integers, at, scheme)))
    layer.hold(at)


def _say(start: Start, said: Mapping[str, Sequence[str]], layers: Mapping[str, QuantizedLayer]) -> None:
    if not is_rank_zero():
        return
    if start.equalizer is not None:
        _log.info(
            "%s: the inputs of %d of %d layers are scaled; before the others no layer takes the inverse scale",
            *(start.equalizer, len(said["scaled"]), len(layers)),
        )
    if start.rounding in ("gptq", "adaround"):
        left = [name for name in layers if name not in said["rounded"]]
        if left:
            _log.info("%s: rounded to the nearest value, as no inputs say more: %s", start.rounding, _listed(left))


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more
