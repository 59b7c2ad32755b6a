"""A model as a folder that ``AutoModel.from_pretrained`` opens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from distill.core.utils.errors import UserError
from distill.core.utils.quiet import quiet_transformers

__all__ = ["check_structure", "to_huggingface"]

_STRUCTURE = {
    "remove": "some of its heads, neurons or layers were taken out",
    "low_rank": "some of its linear maps are products of two",
    "share": "some of its layers share their weights",
}
"""Kinds of steps whose outcome no configuration of transformers describes -> what they do."""


def check_structure(model: nn.Module, steps: Sequence[Mapping[str, Any]]) -> None:
    """Refuse a model that transformers cannot express.

    Args:
        model: The model.
        steps: What was done to it.

    Raises:
        UserError: saying why.
    """
    reasons = [_STRUCTURE[kind] for kind in dict.fromkeys(step["kind"] for step in steps) if kind in _STRUCTURE]
    if not isinstance(model, PreTrainedModel):
        reasons.append(f"{type(model).__name__} is none of its models")
    if reasons:
        raise UserError(
            f"transformers cannot open this student: {'; '.join(reasons)}",
            key="--to",
            value="hf",
            hint="export it with --to onnx, or open it with distill.load",
        )


def to_huggingface(model: PreTrainedModel, folder: Path) -> None:
    """Write the plain weights of ``model`` and its configuration.

    Args:
        model: With plain layers. What it holds besides the weights of its class (masks, scales) is left out.
        folder: Where to.
    """
    with torch.device("meta"):
        names = set(type(model)(model.config).state_dict())
    with quiet_transformers():
        model.save_pretrained(folder, state_dict={k: v for k, v in model.state_dict().items() if k in names})
    for weights in folder.glob("*.safetensors"):
        weights.chmod((folder / "config.json").stat().st_mode)  # safetensors lets only their owner read them
