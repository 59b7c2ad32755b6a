"""Sums over what passes through chosen modules in training."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from distill.compression.operations import aside
from distill.core.signals import Positions, tokens_within

__all__ = ["ActivationSums"]


class ActivationSums:
    """Sums of squares over the positions of a step, in float32; padding is left out where it is known.

    Attributes:
        tokens: Which positions of the current batch are real, boolean, ``[B, T]``; all if not given.
    """

    def __init__(self) -> None:
        self.tokens: Positions = None
        self._sums: dict[str, Tensor] = {}
        self._handles: list[RemovableHandle] = []

    def watch_input(self, name: str, module: nn.Module) -> None:
        """Sum x_j^2 of every feature of the module's input: ``[features]``."""

        def hook(module: nn.Module, args: tuple[Any, ...]) -> None:
            if module.training:
                with aside():
                    self._add(name, self._squares(args[0]))

        self._handles.append(module.register_forward_pre_hook(hook))

    def watch_change(self, name: str, module: nn.Module) -> None:
        """Sum ||f(x) - x||^2 and ||x||^2 of the module f: ``[2]``."""

        def hook(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
            if module.training:
                with aside():
                    x = args[0].detach()
                    self._add(name, torch.stack([self._squares(output.detach() - x).sum(), self._squares(x).sum()]))

        self._handles.append(module.register_forward_hook(hook, prepend=True))

    def _squares(self, x: Tensor) -> Tensor:
        values = x.detach().float()
        if (within := tokens_within(values, self.tokens)) is not None:
            # Filled, not multiplied: what stands in padding need not be finite.
            values = values.masked_fill(~within.to(values.device)[..., None], 0.0)
        return values.square().flatten(0, -2).sum(0)

    def _add(self, name: str, sums: Tensor) -> None:
        self._sums[name] = self._sums[name] + sums if name in self._sums else sums

    def take(self, world_size: int) -> dict[str, Tensor]:
        """The sums over all ranks since the last call."""
        sums, self._sums = self._sums, {}
        if world_size > 1 and sums:
            joined = torch.cat(list(sums.values()))
            torch.distributed.all_reduce(joined)
            sums = dict(zip(sums, torch.split(joined, [len(part) for part in sums.values()]), strict=True))
        return sums

    def stop(self) -> None:
        """Watch no longer."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
