"""A model without its weights, made of its configuration: the names and numbers of its layers cost no reading."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from distill.core.record import read_steps, structural
from distill.core.utils.paths import resolve
from distill.core.utils.quiet import quiet_transformers
from distill.models.folder import read_config

__all__ = ["configuration_at", "without_weights"]


def configuration_at(path: str, key: str) -> Any:
    """That of the model at ``path``; ``None`` if it cannot be read, or does not say all of the model's structure."""
    with suppress(Exception), quiet_transformers():
        location = resolve(path, f"{key}.path")
        if Path(location).is_dir() and structural(read_steps(location, f"{key}.path")):
            return None
        return read_config(location, path, key)
    return None


def without_weights(auto_model: Any, config: Any, attn_implementation: str | None = None) -> PreTrainedModel | None:
    """The model that ``config`` describes, its parameters on the meta device; ``None`` if it cannot be made."""
    attention = {"attn_implementation": attn_implementation} if attn_implementation else {}
    with suppress(Exception), quiet_transformers(), torch.device("meta"):
        made: PreTrainedModel = auto_model.from_config(config, **attention)
        return made
    return None
