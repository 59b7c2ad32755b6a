"""Encoder-decoders: two stacks of layers, each with its own positions, and the token that starts the decoder."""

from __future__ import annotations

from typing import Any, Literal

from torch import nn

from distill.core.utils.errors import UserError

__all__ = ["STACKS", "Stack", "start_of", "starts_with"]

Stack = Literal["encoder", "decoder"]
"""One of the two stacks of layers."""

STACKS: tuple[Stack, Stack] = ("encoder", "decoder")


def starts_with(model: nn.Module) -> int | None:
    """The token before the first that a decoder writes, as its configuration has it; ``None`` where that says none."""
    for config in (getattr(model, "config", None), getattr(model, "generation_config", None)):
        found = getattr(config, "decoder_start_token_id", None)
        if isinstance(found, int):
            return found
    return None


def start_of(model: nn.Module, key: str) -> int:
    """The same, which must be there.

    Args:
        model: An encoder-decoder.
        key: Where it stands in the configuration.

    Raises:
        UserError: if its configuration names none, or one that it has no embedding of.
    """
    start, config = starts_with(model), getattr(model, "config", None)
    size: Any = getattr(config.get_text_config(decoder=True), "vocab_size", None) if config is not None else None
    if start is None:
        problem = f"nothing says which token starts the decoder of this {type(model).__name__}"
        hint = "write its decoder_start_token_id into the model's config.json, or into model.student.config"
        raise UserError(problem, key=key, hint=hint)
    if isinstance(size, int) and not 0 <= start < size:
        problem = f"starts its decoder with token {start}, and its embedding has {size} rows"
        raise UserError(problem, key=key, hint="correct decoder_start_token_id in its config.json")
    return start
