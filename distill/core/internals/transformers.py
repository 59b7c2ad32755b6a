"""What transformers keeps to itself: the attention in use, which class an auto class makes, which weights are tied.

Written against transformers 5.23. Each function is a contract that ``tests/core/internals/test_transformers.py`` holds.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

__all__ = ["attention_in_use", "class_made_by", "saved_once"]


def attention_in_use(config: Any) -> str | None:
    """The attention implementation of the model that holds this configuration; ``None`` where it has none."""
    return getattr(config, "_attn_implementation", None)


def class_made_by(auto_model: Any, config: Any) -> type | tuple[type, ...] | None:
    """The class of model that an auto class makes of a configuration; ``None`` if it makes none of its kind."""
    return auto_model._model_mapping.get(type(config), None)  # type: ignore[no-any-return]


def saved_once(module: nn.Module, names: Mapping[str, str]) -> None:
    """Have ``save_pretrained`` leave out parameters that are another's too.

    Args:
        module: What holds them.
        names: Pattern of the names to leave out -> pattern of the names that they are saved under.
    """
    module._tied_weights_keys = dict(names)  # type: ignore[assignment]
