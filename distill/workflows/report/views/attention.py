"""Where a model looks: the attention of its last layer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from distill.core.internals.transformers import attention_in_use
from distill.core.signals import Request, Signals
from distill.core.utils.plots import new_figure
from distill.core.utils.svg import INK, inline_svg, themed
from distill.workflows.report.views.blocks import Picture

__all__ = ["attention_map", "attention_picture", "eager"]

_HUE = (0.85, 0.37, 0.0)
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


def attention_picture(values: Tensor, tokens: Sequence[str], who: str, name: str) -> Picture:
    """A map, token by token.

    Args:
        values: ``[T, T]``.
        tokens: As texts.
        who: Whose it is.
        name: As of :func:`~distill.core.utils.svg.inline_svg`.
    """
    shown = [token if len(token) <= 12 else f"{token[:11]}…" for token in tokens]
    peak = float(values.max()) or 1.0
    pixels = torch.empty(*values.shape, 4)
    pixels[..., :3] = torch.tensor(_HUE)
    pixels[..., 3] = (values / peak).sqrt()  # a first token often takes most of it
    with themed():
        drawn = new_figure(4.4, 4.4)
        place = drawn.subplots()
        place.imshow(pixels.numpy(), interpolation="none")
        size = 9 if len(shown) <= 16 else 7
        place.set_xticks(range(len(shown)), shown, rotation=90, fontsize=size, color=INK)
        place.set_yticks(range(len(shown)), shown, fontsize=size, color=INK)
        place.tick_params(length=0)
        place.spines[:].set_linewidth(0.5)
        caption = f"{who}; full colour is {peak:.2f}, half of it a quarter of that"
        return Picture(inline_svg(drawn, f"attention of {who}", name), caption)
