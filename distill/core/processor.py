"""What makes a model's inputs of a row: of text a tokenizer, of pictures an image processor."""

from __future__ import annotations

import hashlib
import json
from typing import Any, Literal

from distill.core.images import ImageProcessor

__all__ = ["Reads", "identity_of", "is_tokenizer"]

Reads = Literal["tokens", "pictures"]
"""What a task's models read, and so which processor makes it."""


def is_tokenizer(processor: Any) -> bool:
    """Whether it is a tokenizer of transformers, or one like them."""
    return hasattr(processor, "get_vocab")


def identity_of(processor: Any) -> str:
    """A hash of what a processor does, whatever it was used for before."""
    if isinstance(processor, ImageProcessor):
        return processor.identity
    state = json.loads(processor.backend_tokenizer.to_str())
    state["truncation"] = state["padding"] = None  # left over from the last call
    roles = {name: str(token) for name, token in processor.special_tokens_map.items()}
    content = json.dumps([state, roles, type(processor).__name__], sort_keys=True)
    return hashlib.blake2b(content.encode(), digest_size=16).hexdigest()
