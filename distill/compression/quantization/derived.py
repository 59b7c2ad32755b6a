"""Layers of classes that are derived from a convolution or a linear map, and compute nothing else.

Whether one does is tried, on numbers: its forward has to call one convolution or linear map, with its own weight and
bias, on what it was given, with zeros around it at most, and to give what comes of that. Padded convolutions do
(``same`` as TensorFlow pads). A projection that is never called does not, nor a convolution that standardizes its
weight.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from distill.compression.own_pass import contained
from distill.compression.preserved_state import preserved_state
from distill.compression.quantization.base import QuantizedLayer
from distill.compression.quantization.convolutions import QuantizedConv
from distill.compression.quantization.fake import beside
from distill.compression.quantization.linear import QuantizedLinear
from distill.core.internals.torch import own_parameters

__all__ = ["DerivedConv", "DerivedLinear", "computes_like_its_base", "derived_class", "recast"]

_BASES = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
_FUNCTIONS = ("linear", "conv1d", "conv2d", "conv3d")
_SIDE = 32  # of what a convolution is tried on

_made: dict[type[nn.Module], type[QuantizedLayer]] = {}


class _Derived(QuantizedLayer):
    """Computes as its class does, with what is rounded; the class asks for its weight, and gets it so."""

    def forward(self, input: Tensor) -> Tensor:
        x = self.quantized_input(input)
        if self.training and self.mode == "float" and self.scheme.weights.trains:
            x = beside(x, self.weight_scale)  # a trained scale has a gradient before it is used too
        layer: Any = self.plain
        out: Tensor = layer.forward(self, x)
        return out


class DerivedConv(_Derived, QuantizedConv):
    """A convolution."""


class DerivedLinear(_Derived, QuantizedLinear):
    """A linear map."""


def _base(kind: type[nn.Module]) -> type[nn.Module] | None:
    return next((base for base in _BASES if issubclass(kind, base) and kind is not base), None)


def derived_class(kind: type[nn.Module]) -> type[QuantizedLayer]:
    """The class that a layer of ``kind``, which is derived from a convolution or a linear map, becomes."""
    if kind not in _made:
        ours = DerivedLinear if issubclass(kind, nn.Linear) else DerivedConv
        _made[kind] = cast(type[QuantizedLayer], type(f"Quantized{kind.__name__}", (ours, kind), {"plain": kind}))
    return _made[kind]


@torch.no_grad()
def computes_like_its_base(module: nn.Module) -> bool:
    """Whether a layer of a class derived from a convolution or a linear map computes nothing else."""
    if (
        _base(type(module)) is None
        or type(module).__module__.startswith("torch.")
        or "weight" not in own_parameters(module)
    ):
        return False
    weight = own_parameters(module)["weight"]
    if weight is None or weight.is_meta:
        return False
    x = _numbers(cast(Any, module), weight)
    calls = _Calls()
    try:
        with preserved_state(module, parameters=False), contained(), torch.inference_mode(False):
            module.eval()
            with calls:
                result = type(module).forward(module, x)  # past hooks
    except Exception:  # of sizes that it does not take, or whatever else
        return False
    if len(calls.found) != 1:
        return False
    (given, used, bias, out) = calls.found[0]
    return used is weight and bias is module.bias and result is out and _around(given, x)


def _numbers(module: Any, weight: Tensor) -> Tensor:
    """Something that the layer may read: of both signs, small and large, without zeros."""
    generator = torch.Generator().manual_seed(0)
    shape = [2, module.in_features] if isinstance(module, nn.Linear) else [2, module.in_channels]
    shape += [_SIDE] * (weight.dim() - 2)
    size = torch.rand(shape, generator=generator) * 20 + 0.1
    sign = torch.randint(0, 2, shape, generator=generator) * 2 - 1
    return (size * sign).to(weight.device, weight.dtype)


def _around(given: Tensor, x: Tensor) -> bool:
    """Whether it is x with nothing but zeros around it."""
    kept = given[given != 0]
    return given.dim() == x.dim() and kept.numel() == x.numel() and bool(torch.equal(kept, x.flatten()))


class _Calls(TorchFunctionMode):
    """What is given to convolutions and linear maps, and what they make of it."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[Tensor, Tensor, Tensor | None, Tensor]] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        named = dict(zip(("input", "weight", "bias"), args, strict=False)) | (kwargs or {})
        out = func(*args, **(kwargs or {}))
        if getattr(func, "__name__", "") in _FUNCTIONS:
            self.found.append((named["input"], named["weight"], named.get("bias"), out))
        return out


def recast(layer: QuantizedLayer) -> Callable[[Tensor, Tensor, Tensor | None], Tensor]:
    """What a derived layer computes of an input, a weight and a bias that are given."""
    plain = copy.copy(layer)
    plain.__dict__ = {name: value for name, value in layer.__dict__.items() if name != "_parameters"}
    plain.__dict__["_parameters"] = {}
    plain.__class__ = layer.plain  # type: ignore[assignment]

    def compute(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        plain.__dict__["weight"], plain.__dict__["bias"] = weight, bias
        forward: Any = layer.plain.forward
        out: Tensor = forward(plain, x)
        return out

    return compute
