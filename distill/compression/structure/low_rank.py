"""Linear maps and convolutions as products of two thin ones, by singular value decomposition."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from distill.compression.own_pass import guard
from distill.core.internals.torch import own_modules
from distill.core.module_selection import CONVOLUTIONS, LINEAR
from distill.core.orientation import output_axis
from distill.core.utils.errors import UserError

__all__ = [
    "FACTORIZED",
    "LowRankConv",
    "LowRankLinear",
    "factorize",
    "rank_of_energy",
    "rebuild",
    "replace",
    "saves",
    "shape",
]

FACTORIZED = (*LINEAR, *CONVOLUTIONS)
"""Modules that can be factorized; convolutions where they have no groups."""


class LowRankLinear(nn.Module):
    """y = B A x + b, with A ``[rank, in]`` and B ``[out, rank]``.

    Its two linear maps are modules of their own, so that whatever prunes or quantizes linear maps finds them.

    Args:
        in_features: Width of the input.
        out_features: Width of the output.
        rank: Width between the two.
        bias: Whether there is a b.
    """

    def __init__(self, in_features: int, out_features: int, rank: int, bias: bool = True) -> None:
        super().__init__()
        self.down = nn.Linear(in_features, rank, bias=False)
        self.up = nn.Linear(rank, out_features, bias=bias)

    @property
    def rank(self) -> int:
        """Width between the two."""
        return len(self.down.weight)

    @property
    def in_features(self) -> int:
        return self.down.in_features

    @property
    def out_features(self) -> int:
        return self.up.out_features

    @property
    def weight(self) -> Tensor:
        """B A ``[out, in]``, for whoever reads it as that of a linear map: ``nn.MultiheadAttention`` does."""
        return self.up.weight @ self.down.weight

    @property
    def bias(self) -> Tensor | None:
        """Of :attr:`up`."""
        return self.up.bias

    def forward(self, input: Tensor) -> Tensor:
        out: Tensor = self.up(self.down(input))
        return out


class LowRankConv(LowRankLinear):
    """A convolution to ``rank`` channels, and one over single places from these: the kernel is in the first.

    With W ``[out, in, k, ...]`` as a matrix ``[out, in * k * ...]`` this is its best approximation of that rank, and
    stride, padding and dilation stay with the kernel; a Tucker decomposition needs three maps and a second rank.

    Args:
        conv: In whose place it is; without groups.
        rank: Channels between the two.

    Reference:
        Zhang, Zou, He, Sun: Accelerating Very Deep Convolutional Networks for Classification and Detection, 2016.
    """

    def __init__(self, conv: nn.Conv1d | nn.Conv2d | nn.Conv3d, rank: int) -> None:
        nn.Module.__init__(self)
        kind: Any = CONVOLUTIONS[len(conv.kernel_size) - 1]
        place = conv.kernel_size, conv.stride, conv.padding, conv.dilation
        self.down = kind(conv.in_channels, rank, *place, bias=False, padding_mode=conv.padding_mode)
        self.up = kind(rank, conv.out_channels, 1, bias=conv.bias is not None)

    @property
    def weight(self) -> Tensor:
        """The kernel ``[out, in, k, ...]`` that both are together."""
        whole = self.up.weight.flatten(1) @ self.down.weight.flatten(1)
        return whole.view(len(whole), *self.down.weight.shape[1:])


def shape(module: nn.Module) -> tuple[int, int]:
    """Features out and in of a linear map; of a convolution the inputs of one place."""
    weight = module.weight
    assert isinstance(weight, Tensor)
    out = weight.shape[output_axis(module)]
    return out, weight.numel() // out


def saves(out: int, into: int, rank: int) -> bool:
    """Whether two factors of this rank have fewer weights than the matrix."""
    return rank * (out + into) < out * into


def rank_of_energy(singular: Tensor, energy: float) -> int:
    """The least r for which sum_{i <= r} s_i^2 >= energy * sum_i s_i^2.

    Args:
        singular: The singular values, descending.
        energy: In (0, 1].
    """
    kept = singular.double().square().cumsum(0)
    return int((kept < energy * kept[-1]).sum()) + 1


def factorize(weight: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """The best approximation B A of ``weight`` of this rank: B = U sqrt(S), A = sqrt(S) V^T.

    Args:
        weight: ``[out, in]``.
        rank: 1 to min(out, in).

    Returns:
        A ``[rank, in]`` and B ``[out, rank]``, of equal size, as trained factors should be.
    """
    u, s, v = torch.linalg.svd(weight.float(), full_matrices=False)
    root = s[:rank].sqrt()
    return root[:, None] * v[:rank], u[:, :rank] * root


def replace(model: nn.Module, ranks: Mapping[str, int]) -> None:
    """Put a :class:`LowRankLinear`, of values yet to come, in the place of maps; their biases stay.

    Maps that shared their weight share their factors.

    Args:
        model: Changed in place.
        ranks: Name of a linear map, or a convolution -> rank.
    """
    twins: dict[int, tuple[Tensor, LowRankLinear]] = {}
    for name, rank in ranks.items():
        old = model.get_submodule(name)
        if any(old is new for _, new in twins.values()):
            continue  # a module under two names
        weight = old.weight
        assert isinstance(weight, Tensor)
        new = _empty(old, rank)
        _, twin = twins.setdefault(id(weight), (weight, new))
        if twin is not new:
            new.down.weight, new.up.weight = twin.down.weight, twin.up.weight
        for parent in list(model.modules()):
            for child, module in list(own_modules(parent).items()):
                if module is old:
                    setattr(parent, child, new)
    guard(model)


def _empty(old: nn.Module, rank: int) -> LowRankLinear:
    weight, bias = old.weight, getattr(old, "bias", None)
    assert isinstance(weight, nn.Parameter)
    out, into = shape(old)
    new = LowRankLinear(into, out, rank, bias=bias is not None)
    if isinstance(old, CONVOLUTIONS):
        new = LowRankConv(old, rank)
    new.to(device=weight.device, dtype=weight.dtype).train(old.training)
    for factor in (new.down, new.up):
        factor.weight.requires_grad_(weight.requires_grad)
    if bias is not None:
        new.up.bias = bias
    return new


def rebuild(model: nn.Module, step: Mapping[str, Any]) -> None:
    """Give ``model`` the factors that ``step`` names; their values are for the caller to load.

    Args:
        model: Of the structure before.
        step: ``modules``: name of a linear map, or a convolution -> rank.

    Raises:
        UserError: if the model has no such linear maps.
    """
    found = dict(model.named_modules(remove_duplicate=False))
    for name in step["modules"]:
        if not isinstance(found.get(name), FACTORIZED):
            raise UserError(
                f"the model has no map {name!r}, and one was factorized",
                key="compression.json",
                hint="give the model that was compressed",
            )
    replace(model, step["modules"])
