"""What torch keeps to itself: modules' tables, base classes, the state of a backward pass.

Written against torch 2.13. Each function is a contract that ``tests/core/internals/test_torch.py`` holds.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm as BatchNorm
from torch.nn.modules.batchnorm import _NormBase as RunningNorm
from torch.nn.modules.conv import _ConvNd as ConvNd
from torch.nn.modules.conv import _ConvTransposeNd as ConvTransposeNd
from torch.nn.modules.loss import _Loss as TorchLoss
from torch.optim import Optimizer
from torch.utils._python_dispatch import TorchDispatchMode as OperatorMode
from torch.utils._pytree import tree_leaves

__all__ = [
    "BatchNorm",
    "ConvNd",
    "ConvTransposeNd",
    "Moved",
    "OperatorMode",
    "RunningNorm",
    "TorchLoss",
    "arguments",
    "clip_despite_fusing",
    "convolution",
    "flat_weights",
    "graph_is_kept",
    "hooks",
    "in_backward",
    "interpolate",
    "multiplies_in",
    "not_sent_by_ddp",
    "output_padding",
    "own_buffers",
    "own_modules",
    "own_parameters",
    "pre_hooks",
    "remove_hooks",
    "scale",
    "softmax_into",
    "tensors_in",
    "tree_leaves",
    "unsaved_buffers",
    "version",
    "written_arguments",
]

# ---------------------------------------------------------------------- a module's tables


def own_parameters(module: nn.Module) -> dict[str, nn.Parameter | None]:
    """The module's own table of parameters, to read or to change: with those that are ``None``, and none left out.

    ``named_parameters`` leaves out the second name of a shared parameter; attributes may be a parametrization's.
    """
    return module._parameters


def own_buffers(module: nn.Module) -> dict[str, Tensor | None]:
    """The module's own table of buffers, to read or to change."""
    return module._buffers


def own_modules(module: nn.Module) -> dict[str, nn.Module | None]:
    """The module's own table of children, to read or to change."""
    return module._modules


def unsaved_buffers(module: nn.Module) -> set[str]:
    """Names of the module's own buffers that are not in its state dict."""
    return module._non_persistent_buffers_set


def pre_hooks(module: nn.Module) -> list[Callable[..., Any]]:
    """What is called before the module's forward, in order."""
    return list(module._forward_pre_hooks.values())


def hooks(module: nn.Module) -> list[Callable[..., Any]]:
    """What is called before and after the module's forward."""
    return [*module._forward_pre_hooks.values(), *module._forward_hooks.values()]


def remove_hooks(module: nn.Module, which: Collection[Callable[..., Any]]) -> None:
    """Take these from what is called before and after the module's forward."""
    own = module._forward_pre_hooks, module._forward_hooks
    for table in own:
        for number in [number for number, hook in table.items() if hook in which]:
            del table[number]
            for more in (
                module._forward_pre_hooks_with_kwargs,
                module._forward_hooks_with_kwargs,
                module._forward_hooks_always_called,
            ):
                more.pop(number, None)


def flat_weights(module: nn.RNNBase) -> list[str]:
    """Names of the weights and biases of a recurrent module, in the order in which its kernels take them."""
    return list(module._flat_weights_names)


class Moved(nn.Module):
    """A module that is told of moves and conversions (``to``, ``half``, ``cuda``), and of states that are loaded."""

    def moved(self, before: dict[str, Tensor | None]) -> None:
        """Called after a move, with the buffers as they were."""

    def awaits(self, state: Mapping[str, Any], prefix: str) -> None:
        """Called before a state dict is loaded in which the module's own entries begin with ``prefix``."""

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *args: Any) -> None:
        self.awaits(state_dict, prefix)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        before = dict(self._buffers)
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self.moved(before)
        return self


# ---------------------------------------------------------------------- convolutions


def convolution(layer: nn.Module) -> Callable[[Tensor, Tensor, Tensor | None], Tensor]:
    """What a convolution computes of an input, a weight and a bias, with its stride, padding, dilation and groups."""
    found: Callable[[Tensor, Tensor, Tensor | None], Tensor] = layer._conv_forward  # type: ignore[assignment]
    return found


def output_padding(layer: nn.Module, x: Tensor, output_size: Sequence[int] | None) -> Sequence[int]:
    """How much a transposed convolution pads its output to be of ``output_size``; its own setting if ``None``."""
    conv: Any = layer
    size = conv.kernel_size
    padded: Sequence[int] = conv._output_padding(
        x, output_size, conv.stride, conv.padding, size, len(size), conv.dilation
    )
    return padded


# ---------------------------------------------------------------------- passes


def in_backward() -> bool:
    """Whether this thread computes a backward pass now."""
    return torch._C._current_graph_task_id() != -1


def softmax_into(logits: Tensor, out: Tensor) -> Tensor:
    """softmax over the last axis, written to ``out``: torch's public function has no place for it."""
    return torch._softmax(logits, -1, False, out=out)


def graph_is_kept() -> bool:
    """Whether the backward pass that runs now was begun with ``retain_graph``: another one may follow."""
    return torch._C._autograd._get_current_graph_task_keep_graph()


def multiplies_in(dtype: torch.dtype) -> bool:
    """Whether this host's processor has instructions for matrices of half precision; else they are emulated.

    For dtypes that no processor lacks it is true. Of x86 torch calls bfloat16 supported from AVX-512 on, whose first
    processors compute it in float32.
    """
    x86 = platform.machine() in ("x86_64", "AMD64")
    if x86 and dtype == torch.bfloat16 and not torch.cpu._is_avx512_bf16_supported():
        return False
    asked = {torch.bfloat16: "_is_mkldnn_bf16_supported", torch.float16: "_is_mkldnn_fp16_supported"}
    return bool(getattr(torch.ops.mkldnn, asked[dtype])()) if dtype in asked else True


def version(tensor: Tensor) -> int:
    """A number that grows with every change in place of the tensor or a view of it; 0 where none is kept."""
    return 0 if tensor.is_inference() else tensor._version


def tensors_in(tree: Any) -> list[Tensor]:
    """The tensors in a value, however deep they lie in lists, tuples and mappings."""
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def arguments(operator: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """What an operator was called with, as :class:`OperatorMode` is given it, by the names of its schema.

    The second argument is the axes of one operator and the order of another, and a default is not given at all.
    """
    schema = operator._schema.arguments
    given = dict(zip((one.name for one in schema), args, strict=False)) | dict(kwargs)
    return {one.name: given.get(one.name, one.default_value) for one in schema}


def written_arguments(operator: Any) -> list[tuple[int, str]]:
    """Place and name of each argument that an operator writes to, as :class:`OperatorMode` is given it."""
    arguments = enumerate(operator._schema.arguments)
    return [(place, one.name) for place, one in arguments if one.alias_info is not None and one.alias_info.is_write]


# ---------------------------------------------------------------------- optimizers and gradients


def scale(tensors: Iterable[Tensor], factor: Tensor) -> None:
    """Multiply tensors by a number, in place and in as few kernels as there are devices."""
    torch._foreach_mul_(list(tensors), factor)


def interpolate(tensors: Iterable[Tensor], targets: Iterable[Tensor], weight: float) -> None:
    """Move tensors towards others, ``x + weight (y - x)``, in place and likewise."""
    torch._foreach_lerp_(list(tensors), list(targets), weight)


def clip_despite_fusing(optimizer: Optimizer) -> None:
    """Have a fused optimizer leave the unscaling of gradients to the scaler.

    It offers to unscale them by itself, and Lightning then refuses to clip them. Unscaled by the scaler, as any other
    optimizer's are, they can be clipped.
    """
    optimizer._step_supports_amp_scaling = False  # type: ignore[attr-defined]


def not_sent_by_ddp(module: nn.Module, buffers: Iterable[str]) -> None:
    """Have ``DistributedDataParallel`` not send these buffers from rank zero before every forward pass."""
    ignored = getattr(module, "_ddp_params_and_buffers_to_ignore", [])
    module._ddp_params_and_buffers_to_ignore = [*ignored, *buffers]  # type: ignore[assignment]
