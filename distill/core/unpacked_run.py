"""Packed blocks, run a document at a time: for models in which nothing marks where a document begins."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from distill.core.signals import Signals
from distill.core.utils.errors import UserError

__all__ = ["run_unpacked"]

Part = tuple[Tensor, Signals]
"""Documents of one length n: the places of their tokens in the block ``[d, n]``, and what the model gave for them."""


def run_unpacked(run: Callable[[Mapping[str, Tensor]], Signals], inputs: Mapping[str, Tensor]) -> Signals:
    """What ``run`` gives for every document by itself, put together as if the blocks had been run.

    Documents of one length are run together, so nothing is padded. Attention between documents is 0.

    Args:
        run: Runs the model on ``[d, n]`` tokens.
        inputs: Blocks ``[B, T]``, with ``position_ids`` that begin again at 0 with each document.
    """
    positions = inputs["position_ids"]
    starts = positions == 0
    starts[:, 0] = True
    begins = starts.flatten().nonzero().squeeze(1)
    lengths = torch.diff(begins, append=begins.new_tensor([positions.numel()]))
    others = {name: tensor.flatten(0, 1) for name, tensor in inputs.items() if name != "position_ids"}
    parts: list[Part] = []
    for length in sorted(set(lengths.tolist())):
        places = begins[lengths == length][:, None] + torch.arange(length, device=begins.device)
        parts.append((places, run({name: tensor[places] for name, tensor in others.items()})))
    shape = positions.shape
    signals = [signals for _, signals in parts]
    first = signals[0]

    def heads(tensors: Sequence[Tensor]) -> Tensor:
        return _joined(parts, [t.transpose(1, 2) for t in tensors], shape).transpose(1, 2)

    return Signals(
        logits=None
        if first.logits is None
        else _joined(parts, [s.logits for s in signals if s.logits is not None], shape),
        hidden_states={k: _joined(parts, [s.hidden_states[k] for s in signals], shape) for k in first.hidden_states},
        attentions={k: _blocks(parts, [s.attentions[k] for s in signals], shape) for k in first.attentions},
        projections={
            k: (
                heads([s.projections[k][0] for s in signals]),
                heads([s.projections[k][1] for s in signals]),
                heads([s.projections[k][2] for s in signals]),
            )
            for k in first.projections
        },
        taps={k: _joined(parts, [s.taps[k] for s in signals], shape, k) for k in first.taps},
        lazy_logits=None
        if first.lazy_logits is None
        else replace(
            first.lazy_logits,
            hidden=_joined(parts, [s.lazy_logits.hidden for s in signals if s.lazy_logits is not None], shape),
        ),
    )


def _joined(parts: Sequence[Part], tensors: Sequence[Tensor], shape: torch.Size, tap: str | None = None) -> Tensor:
    """Tensors ``[d, n, ...]`` of all parts as one ``[B, T, ...]``."""
    for (places, _), tensor in zip(parts, tensors, strict=True):
        if tensor.shape[:2] != places.shape:
            problem = "this module's output has no place for each token, and documents that share a block are run apart"
            raise UserError(problem, key="taps", value=tap, hint="name another module, or set data.pack_length: 0")
    order = torch.cat([places.flatten() for places, _ in parts]).argsort()
    return torch.cat([tensor.flatten(0, 1) for tensor in tensors])[order].reshape(*shape, *tensors[0].shape[2:])


def _blocks(parts: Sequence[Part], maps: Sequence[Tensor], shape: torch.Size) -> Tensor:
    """Attention maps ``[d, heads, n, n]`` of all parts on the diagonal of ``[B, heads, T, T]``."""
    rows, length = shape
    whole = maps[0].new_zeros(rows, length, length, maps[0].shape[1])
    for (places, _), found in zip(parts, maps, strict=True):
        row, at = places[:, :1, None] // length, places % length
        whole = whole.index_put((row, at[:, :, None], at[:, None, :]), found.permute(0, 2, 3, 1))
    return whole.permute(0, 3, 1, 2)
