"""Where a model looks: the attention of its last layer."""

from __future__ import annotations

import base64
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from html import escape
from typing import Any

import torch
from torch import Tensor, nn

from distill.core.internals.transformers import attention_in_use
from distill.core.signals import Request, Signals
from distill.workflows.report.views.blocks import Picture

__all__ = ["attention_map", "attention_picture", "eager", "png"]

_SIDE, _LEFT, _LONGEST = 240, 76, 12
_HUE = (217, 94, 0)
"""Seen on white and on black: where there is little attention the page shows through."""


@contextmanager
def eager(model: nn.Module) -> Iterator[None]:
    """Have a model of transformers compute its attention maps as such within; other ways do not have them."""
    before = attention_in_use(getattr(model, "config", None))
    change: Any = getattr(model, "set_attn_implementation", None)
    if change is None or before in (None, "eager"):
        yield
        return
    change("eager")
    try:
        yield
    finally:
        change(before)


@torch.no_grad()
def attention_map(model: nn.Module, run: Callable[[Request], Signals]) -> Tensor:
    """The mean over its heads of the last layer's attention, ``[T, T]``: row t is where token t looks, and sums to 1.

    Args:
        model: Of transformers.
        run: A forward pass of it, over one sample.

    Raises:
        UserError: if it gives no attention.
    """
    with eager(model):
        [maps] = run(Request(attentions=frozenset({-1}))).attentions.values()
    return maps[0].float().mean(0).cpu()


def attention_picture(values: Tensor, tokens: Sequence[str], who: str) -> Picture:
    """A map, token by token. It is written by hand: a plot with so many labels takes a second.

    Args:
        values: ``[T, T]``.
        tokens: As texts.
        who: Whose it is.
    """
    peak = float(values.max()) or 1.0
    alpha = (values / peak).sqrt()  # a first token often takes most of it
    data = base64.b64encode(png(alpha)).decode()
    cell = _SIDE / len(tokens)
    size = min(9.0, 0.95 * cell)
    parts = [f'<image href="data:image/png;base64,{data}" x="{_LEFT}" width="{_SIDE}" height="{_SIDE}"/>']
    parts.append(f'<path d="M{_LEFT} 0h{_SIDE}v{_SIDE}h-{_SIDE}z"/>')
    for at, token in enumerate(tokens):
        text, middle = escape(token if len(token) <= _LONGEST else f"{token[: _LONGEST - 1]}…"), (at + 0.5) * cell
        x, y = _LEFT + middle + 0.35 * size, middle + 0.35 * size
        parts.append(f'<text x="{_LEFT - 4}" y="{y:.1f}">{text}</text>')
        parts.append(f'<text transform="translate({x:.1f} {_SIDE + 4}) rotate(-90)">{text}</text>')
    label = escape(f"attention of {who}")
    svg = f'<svg class="map" viewBox="0 0 {_LEFT + _SIDE + 1} {_SIDE + _LEFT}" role="img" aria-label="{label}" '
    svg += f'style="font-size: {size:.1f}px"><title>{label}</title>{"".join(parts)}</svg>'
    return Picture(svg, f"{who}; full colour is {peak:.2f}, half of it a quarter of that")


def png(alpha: Tensor) -> bytes:
    """A picture of one hue, as opaque as ``alpha`` ``[H, W]`` says, from 0 to 1.

    https://www.w3.org/TR/png-3/: 8 bits a channel, colour and alpha, no filter.
    """
    high, wide = alpha.shape
    pixels = torch.empty(high, wide, 4, dtype=torch.uint8)
    pixels[..., :3] = torch.tensor(_HUE, dtype=torch.uint8)
    pixels[..., 3] = (255 * alpha).round().to(torch.uint8)
    rows = b"".join(b"\0" + row.numpy().tobytes() for row in pixels)
    head = struct.pack(">IIBBBBB", wide, high, 8, 6, 0, 0, 0)
    chunks = ((b"IHDR", head), (b"IDAT", zlib.compress(rows, 9)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )
