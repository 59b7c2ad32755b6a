"""Where a scale of channels can be folded into the layer before, found by what the model computes.

A producer (a norm, a linear map, a convolution) gives channels to consumers. Dividing its outputs and multiplying the
consumers' weights by the same scale changes nothing where the consumers alone read these channels, and all between
them is linear in each: an identity, a product with a gate, ReLU. Whether that is so is not read off names: it is tried
with powers of two, which change no bit of a float product. What the model computes has to stay the same to the bit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from distill.compression.quantization.layers import QuantizedLayer, QuantizedLinear, QuantizedTransposedLinear
from distill.compression.quantization.starts.statistics import agreed
from distill.core.internals.torch import RunningNorm

__all__ = ["Fold", "find_folds"]

_Output = Callable[[], Tensor]
"""Runs the model on one batch, and gives what it computes."""

_NEAR = 3
"""How many of the layers that were called last before a consumer are tried as its producer."""


@dataclass(frozen=True)
class Fold:
    """A producer, and the layers that alone read its channels.

    Attributes:
        producer: Has a ``weight``, ``[channels]`` or with the channels first, and perhaps a bias.
        consumers: Linear maps.
    """

    producer: nn.Module
    consumers: tuple[QuantizedLayer, ...]

    @torch.no_grad()
    def scale(self, s: Tensor) -> None:
        """Divide the producer's channels by ``s``, ``[channels]``, and multiply the consumers' weights."""
        weight = _weight(self.producer)
        rows = _rows(self.producer, weight)
        rows.copy_(rows / s.to(rows.dtype).view(-1, *(1,) * (rows.dim() - 1)))
        bias = getattr(self.producer, "bias", None)
        if isinstance(bias, Tensor):
            bias.copy_(bias / s.to(bias.dtype))
        for parameter, layer in {id(x.parameter): (x.parameter, x) for x in self.consumers}.values():
            layer.as_rows(parameter).mul_(s.to(parameter.dtype))


def _weight(module: nn.Module) -> Tensor:
    return cast(Tensor, module.parameter if isinstance(module, QuantizedLayer) else module.weight)


def _rows(module: nn.Module, weight: Tensor) -> Tensor:
    """A view with the output channels first."""
    return module.as_rows(weight) if isinstance(module, QuantizedTransposedLinear) else weight


def _produces(module: nn.Module) -> bool:
    """Whether its outputs are multiples of its weight's channels: a norm with a weight, a linear map, a convolution."""
    weight = getattr(module, "weight", None)
    if not isinstance(weight, nn.Parameter) or isinstance(module, nn.Embedding):
        return False
    norm = weight.dim() == 1 and not list(module.children())
    return norm or isinstance(module, (RunningNorm, nn.Linear, QuantizedLinear, QuantizedTransposedLinear))


def _channels(module: nn.Module) -> int:
    return len(_rows(module, _weight(module)))


@torch.no_grad()
def find_folds(model: nn.Module, layers: Sequence[QuantizedLayer], output: _Output) -> list[Fold]:
    """The folds for these layers, each tried, in the order of the model.

    Candidates are a layer whose output is another's input itself, and else the three called last before that have as
    many channels. Those of one kind (their names differ in numbers alone) are tried together; where that fails, one by
    one, unless it fails for the first and for the last of them.

    Args:
        model: In eval mode; afterwards it is as before.
        layers: Linear maps to scale the inputs of.
        output: Runs ``model`` on one batch, without anything random.
    """
    names = {module: name for name, module in model.named_modules()}
    found: dict[nn.Module, Fold] = {}
    taken: set[nn.Module] = set()
    expected = output()
    for kind in _kinds(_candidates(model, layers, output), names):
        free = [fold for fold in kind if fold.producer not in found and taken.isdisjoint(fold.consumers)]
        for fold in _good(free, output, expected):
            found[fold.producer] = fold
            taken.update(fold.consumers)
    order = {module: at for at, module in enumerate(names)}
    return sorted(found.values(), key=lambda fold: order[fold.producer])


def _good(folds: list[Fold], output: _Output, expected: Tensor) -> list[Fold]:
    """Those of one kind that change nothing."""
    if not folds or _unchanged(folds, output, expected):
        return folds
    ends = folds[0], folds[-1]
    if len(folds) == 1 or not any(_unchanged([fold], output, expected) for fold in ends):
        return []
    good: list[Fold] = []
    for fold in folds:
        apart = all(fold.producer is not x.producer and not {*fold.consumers} & {*x.consumers} for x in good)
        if apart and _unchanged([fold], output, expected):
            good.append(fold)
    return good


def _candidates(model: nn.Module, layers: Sequence[QuantizedLayer], output: _Output) -> list[Fold]:
    """Producers and consumers that fit, the likeliest first for each."""
    called: list[nn.Module] = []
    outputs: dict[int, tuple[nn.Module, Tensor]] = {}  # kept, so that no other tensor takes their place
    direct: dict[nn.Module, list[QuantizedLayer]] = {}
    near: dict[QuantizedLayer, list[nn.Module]] = {}
    wanted = set(layers)

    def enter(module: nn.Module, args: tuple[Any, ...]) -> None:
        if module not in wanted or module in near or not args or not isinstance(args[0], Tensor):
            return
        layer, width = module, args[0].shape[-1]
        before = outputs.get(id(args[0]))
        if before is not None and _channels(before[0]) == width:
            direct.setdefault(before[0], []).append(layer)
        fitting = (one for one in reversed(called) if _channels(one) == width and one is not module)
        near[layer] = [one for _, one in zip(range(_NEAR), fitting, strict=False)]

    def leave(module: nn.Module, args: tuple[Any, ...], result: Any) -> None:
        if isinstance(result, Tensor):
            called.append(module)
            outputs[id(result)] = module, result

    handles: list[Any] = []
    try:
        for module in model.modules():
            handles.append(module.register_forward_pre_hook(enter))
            if _produces(module):
                handles.append(module.register_forward_hook(leave))
        output()
    finally:
        for handle in handles:
            handle.remove()
    folds = [Fold(producer, tuple(consumers)) for producer, consumers in direct.items()]
    return list(dict.fromkeys(folds + [Fold(one, (layer,)) for layer, before in near.items() for one in before]))


def _kinds(folds: Sequence[Fold], names: dict[nn.Module, str]) -> list[list[Fold]]:
    """The folds whose names differ in numbers alone, together."""
    kinds: dict[tuple[str, ...], list[Fold]] = {}
    for fold in folds:
        modules = fold.producer, *fold.consumers
        key = tuple(f"{_without_numbers(names[module])} {type(module).__name__}" for module in modules)
        kinds.setdefault(key, []).append(fold)
    return list(kinds.values())


def _without_numbers(name: str) -> str:
    return ".".join("*" if part.isdigit() else part for part in name.split("."))


def _unchanged(folds: Sequence[Fold], output: _Output, expected: Tensor) -> bool:
    """Whether powers of two, folded in, leave what the model computes as it is, to the bit."""
    for fold in folds:
        channels = _channels(fold.producer)
        if any(layer.rows.shape[1] != channels for layer in fold.consumers):
            return False
    scales = []
    for number, fold in enumerate(folds):
        generator = torch.Generator().manual_seed(number)
        power = torch.randint(-1, 3, (_channels(fold.producer),), generator=generator)
        scales.append(torch.exp2(power.float()).to(_weight(fold.producer).device))
    for fold, s in zip(folds, scales, strict=True):
        fold.scale(s)
    try:
        return agreed(torch.equal(output(), expected), expected.device)
    finally:
        for fold, s in zip(folds, scales, strict=True):
            fold.scale(1 / s)
