"""Layers that share their parameters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from distill.core.architectures import layer_list
from distill.core.internals.torch import own_parameters
from distill.core.internals.transformers import saved_once
from distill.core.utils.errors import UserError

__all__ = ["average", "blocks", "check_alike", "check_groups", "rebuild", "share", "shared_layers"]


def blocks(depth: int, size: int) -> list[list[int]]:
    """The layers 1 to ``depth`` in groups of ``size`` neighbours; one that is left over alone shares nothing."""
    groups = [list(range(start, min(start + size, depth + 1))) for start in range(1, depth + 1, size)]
    return [group for group in groups if len(group) > 1]


def check_groups(groups: Sequence[Sequence[int]], depth: int, key: str) -> None:
    """Refuse groups that are not of two or more different layers, each in one group only.

    Raises:
        UserError: saying which layers there are.
    """
    numbers = [number for group in groups for number in group]
    if (
        not groups
        or min(len(group) for group in groups) < 2
        or len(set(numbers)) < len(numbers)
        or not set(numbers) <= set(range(1, depth + 1))
    ):
        problem = f"groups are of two or more of the layers 1 to {depth}, each in one group only"
        raise UserError(problem, key=key, value=[list(group) for group in groups], hint="write [[1, 2], [3, 4]], or 2")


def shared_layers(model: nn.Module, key: str) -> nn.ModuleList:
    """The layers of a model of transformers.

    Raises:
        UserError: if it is none, or has not one list of them.
    """
    if not isinstance(model, PreTrainedModel):
        problem = "layers are shared of models of transformers"
        raise UserError(problem, key=key, value=type(model).__name__, hint="tie the parameters of your module yourself")
    try:
        layers = model.get_submodule(layer_list(model))
    except UserError as error:
        problem = error.problem.replace("taken out of", "shared of")
        raise UserError(problem, key=key, value=type(model).__name__, hint="leave it out") from None
    assert isinstance(layers, nn.ModuleList)
    return layers


def average(layers: nn.ModuleList, groups: Sequence[Sequence[int]]) -> None:
    """Give the parameters of each group's first layer the mean of the group, in place."""
    with torch.no_grad():
        for group in groups:
            others = [dict(layers[number - 1].named_parameters()) for number in group[1:]]
            for name, parameter in layers[group[0] - 1].named_parameters():
                distinct = {id(p): p for p in (parameter, *(other[name] for other in others))}
                if len(distinct) > 1:  # not yet shared
                    parameter.copy_(torch.stack(list(distinct.values())).mean(0))


def check_alike(layers: nn.ModuleList, groups: Sequence[Sequence[int]], key: str) -> None:
    """Refuse groups of layers whose parameters differ in name or shape.

    Raises:
        UserError: naming the layers.
    """
    for group in groups:
        shapes = [{name: p.shape for name, p in layers[number - 1].named_parameters()} for number in group]
        for number, others in zip(group, shapes, strict=True):
            if others != shapes[0]:
                problem = f"layers {group[0]} and {number} have parameters of different names or shapes"
                raise UserError(problem, key=key, value=list(group), hint="group layers of one structure")


def share(layers: nn.ModuleList, groups: Sequence[Sequence[int]]) -> None:
    """Let the layers of each group hold the very parameters of its first layer, in place."""
    for group in groups:
        first = dict(layers[group[0] - 1].named_modules())
        for number in group[1:]:
            for path, module in layers[number - 1].named_modules():
                for name in own_parameters(module):
                    own_parameters(module)[name] = own_parameters(first[path])[name]
    # transformers saves a parameter once where it is told which of its names to leave out.
    left_out = {rf"{number - 1}\.": rf"{group[0] - 1}\." for group in groups for number in group[1:]}
    saved_once(layers, left_out)


def rebuild(model: nn.Module, step: Mapping[str, Any]) -> None:
    """Let the layers of ``model`` share what they shared; the values are for the caller to load.

    Args:
        model: Of the structure before.
        step: ``groups``: lists of layers, 1 is the first.

    Raises:
        UserError: if the model has no such layers.
    """
    layers = shared_layers(model, "compression.json")
    check_groups(step["groups"], len(layers), "compression.json")
    check_alike(layers, step["groups"], "compression.json")
    share(layers, step["groups"])
