"""A narrower student: the same network on evenly chosen coordinates, whole heads and the largest neurons.

Sizes cannot tell the axes of a weight apart (in BERT the heads are together as wide as the residual stream),
so the tables of ``architectures.py`` say by name which axis of which parameter is what.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from distill.core.architectures import FAMILIES, Family, Role, Widths
from distill.core.utils.errors import UserError
from distill.models.students.layers import rebuilt

__all__ = ["evenly", "narrow", "target_widths", "widths"]


def target_widths(
    config: Any, hidden_size: int | None, num_heads: int | None, intermediate_size: int | None
) -> tuple[Family, Widths, Widths]:
    """The family of the model that ``config`` describes, its sizes, and those of a narrower copy.

    Raises:
        UserError: as :func:`narrow`.
    """
    family = FAMILIES.get(config.model_type)
    if family is None:
        raise UserError(
            f"narrower copies are made of {', '.join(FAMILIES)}, and this is {config.model_type}",
            key="model.student.hidden_size",
            value=hidden_size,
            hint="leave the widths out, or give the student's structure as config",
        )
    wide = Widths.of(config, family)
    return family, wide, _target(wide, family, hidden_size, num_heads, intermediate_size)


def _target(wide: Widths, family: Family, hidden: int | None, heads: int | None, ffn: int | None) -> Widths:
    """The sizes asked for, checked against each other and against ``wide``."""
    asked = {"hidden_size": (hidden, wide.hidden), "num_heads": (heads, wide.heads)}
    asked["intermediate_size"] = (ffn, wide.ffn)
    for name, (size, limit) in asked.items():
        if size is not None and not 1 <= size <= limit:
            raise UserError(
                f"a narrower copy has 1 to {limit}, as the wide model has {limit}",
                key=f"model.student.{name}",
                value=size,
                hint="choose a smaller one, or give the student's structure as config",
            )
    if not family.free_heads:
        hidden, heads = _tied(wide, hidden, heads)
    hidden, heads = hidden or wide.hidden, heads or wide.heads
    group = wide.heads // wide.kv_heads
    if heads % group:
        raise UserError(
            f"{group} query heads share one head of keys and values, and such groups are kept whole",
            key="model.student.num_heads",
            value=heads,
            hint=f"choose a multiple of {group}",
        )
    return Widths(hidden, heads, heads // group, wide.head_dim, ffn or wide.ffn)


def _tied(wide: Widths, hidden: int | None, heads: int | None) -> tuple[int | None, int | None]:
    """Where the heads together must be as wide as the residual stream: one from the other."""
    size = wide.head_dim
    if hidden is not None and (hidden % size or (heads is not None and heads * size != hidden)):
        raise UserError(
            f"heads keep their size, {size}, and are together as wide as the residual stream",
            key="model.student.hidden_size",
            value=hidden,
            hint=f"choose {size} times num_heads",
        )
    if hidden is not None:
        return hidden, hidden // size
    return (None if heads is None else heads * size), heads


def evenly(count: int, of: int) -> Tensor:
    """``count`` of the numbers 0 ... ``of`` - 1, evenly spread, ascending: floor(i * of / count)."""
    return torch.arange(count) * of // count


def _features(heads: Tensor, head_dim: int) -> Tensor:
    """The features of these heads."""
    return (heads[:, None] * head_dim + torch.arange(head_dim)).flatten()


def narrow(
    model: PreTrainedModel,
    hidden_size: int | None = None,
    num_heads: int | None = None,
    intermediate_size: int | None = None,
) -> PreTrainedModel:
    """A new model on a part of the coordinates of ``model``, in float32; nothing is shared.

    The same coordinates of the residual stream are kept in every matrix, norm, embedding and head, and whole
    heads (under grouped-query attention whole groups). Of each feed-forward block the neurons with the
    largest product of the norms of their incoming and outgoing weights stay.

    Args:
        model: Of transformers, of one of :data:`FAMILIES`; left as it is.
        hidden_size: Coordinates of the residual stream to keep; all if not given.
        num_heads: Heads to keep. Where heads and residual stream must be equally wide (all but Llama's
            relatives) each follows from the other.
        intermediate_size: Feed-forward neurons to keep in each layer.

    Raises:
        UserError: if the architecture is of none of the families, or the sizes do not fit.
    """
    family, wide, target = target_widths(model.config, hidden_size, num_heads, intermediate_size)
    state = model.state_dict()
    axes = {name: family.axes(name) for name in state}
    index = _indices(wide, target)
    neurons = _neurons(state, axes, target.ffn)
    for name, tensor in state.items():
        for axis, role in enumerate(axes[name]):
            kept = neurons[_block(name)] if role == "ffn" else index[role] if role else None
            if kept is not None:
                tensor = tensor.index_select(axis, kept.to(tensor.device))
        state[name] = tensor
    return rebuilt(model, _config(model.config, family, target), state)


def widths(config: Any) -> dict[str, int]:
    """The sizes of a model of one of the :data:`FAMILIES`, by name."""
    return asdict(Widths.of(config, FAMILIES[config.model_type]))


def _indices(wide: Widths, target: Widths) -> dict[str, Tensor]:
    kv_heads = evenly(target.kv_heads, wide.kv_heads)
    heads = _features(_features(kv_heads, wide.heads // wide.kv_heads), wide.head_dim)
    width = wide.heads * wide.head_dim
    return {
        "hidden": evenly(target.hidden, wide.hidden),
        "heads": heads,
        "kv_heads": _features(kv_heads, wide.head_dim),
        "fused": torch.cat([heads, heads + width, heads + 2 * width]),
    }


def _block(parameter: str) -> str:
    """The layer that a parameter belongs to: its name up to the first number."""
    match = re.match(r"(.*?\.\d+)\.", parameter)
    return match.group(1) if match else ""


def _neurons(state: Mapping[str, Tensor], axes: Mapping[str, tuple[Role, ...]], count: int) -> dict[str, Tensor]:
    """Layer -> its ``count`` feed-forward neurons with the largest product of weight norms, ascending."""
    logs: dict[str, Tensor] = {}
    for name, roles in axes.items():
        if "ffn" in roles and len(roles) == 2:
            norm = state[name].double().norm(dim=1 - roles.index("ffn")).log()
            logs[_block(name)] = logs.get(_block(name), torch.zeros_like(norm)) + norm
    return {
        layer: importance.sort(descending=True, stable=True).indices[:count].sort().values
        for layer, importance in logs.items()
    }


def _config(config: Any, family: Family, target: Widths) -> Any:
    config = deepcopy(config)
    config.hidden_size, config.num_attention_heads = target.hidden, target.heads
    setattr(config, family.ffn, target.ffn)
    if getattr(config, "num_key_value_heads", None):
        config.num_key_value_heads = target.kv_heads
    if family.free_heads:
        config.head_dim = target.head_dim
    return config
