"""The shapes of a net's tensors after channels were removed, and what its modules say of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from operator import gt

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from distill.core.internals.torch import ConvNd, ConvTransposeNd, RunningNorm, own_buffers, own_parameters
from distill.core.utils.errors import UserError

__all__ = ["set_shapes", "tell_shape"]


def tell_shape(module: nn.Module, before: torch.Size) -> None:
    """Let a module say the widths that its tensors now have.

    Args:
        module: With its new tensors.
        before: The shape that the tensor had which was cut last.
    """
    weight = own_parameters(module).get("weight")
    if isinstance(module, RunningNorm):
        held = next(t for t in (weight, own_buffers(module).get("running_mean")) if t is not None)
        module.num_features = len(held)
    if weight is None:
        return
    if isinstance(module, Conv1D):
        module.nx, module.nf = weight.shape
    elif isinstance(module, nn.Linear):
        module.out_features, module.in_features = weight.shape
    elif isinstance(module, nn.Embedding):
        module.num_embeddings, module.embedding_dim = weight.shape
    elif isinstance(module, (nn.LayerNorm, nn.RMSNorm)):
        module.normalized_shape = tuple(weight.shape)
    elif isinstance(module, nn.PReLU):
        module.num_parameters = len(weight)
    elif isinstance(module, nn.GroupNorm):
        module.num_groups = module.num_groups * len(weight) // module.num_channels
        module.num_channels = len(weight)
    elif isinstance(module, ConvNd) and len(before) == weight.dim():
        if module.groups > 1:  # whole groups go, which lie along the first axis
            module.groups = module.groups * weight.shape[0] // before[0]
        sides = weight.shape[0], weight.shape[1] * module.groups
        if isinstance(module, ConvTransposeNd):
            module.in_channels, module.out_channels = sides
        else:
            module.out_channels, module.in_channels = sides


def set_shapes(model: nn.Module, shapes: Mapping[str, Sequence[int]]) -> None:
    """Cut tensors of a model, in place, to these shapes; their values are for the caller to load.

    Args:
        model: Of the structure before.
        shapes: Name of a parameter or buffer -> its shape.

    Raises:
        UserError: if there is no such tensor, or it is smaller than that.
    """
    holders: dict[int, list[tuple[nn.Module, str]]] = {}
    for module in model.modules():
        for name, tensor in (*own_parameters(module).items(), *own_buffers(module).items()):
            if tensor is not None:
                holders.setdefault(id(tensor), []).append((module, name))
    named: dict[str, Tensor] = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    for name, shape in shapes.items():
        old = named.get(name)
        if old is None or len(shape) != old.dim() or any(map(gt, shape, old.shape)):
            problem = f"the model has no {name} of which {list(shape)} is a part"
            hint = "give the model that was compressed"
            raise UserError(problem, key="compression.json", hint=hint)
        cut = old.detach()[tuple(slice(side) for side in shape)].clone()
        for module, own in holders[id(old)]:
            if isinstance(old, nn.Parameter):
                setattr(module, own, nn.Parameter(cut, requires_grad=old.requires_grad))
            else:
                own_buffers(module)[own] = cut
            tell_shape(module, old.shape)
