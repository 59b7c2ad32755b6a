"""A compression of one's own: a callback that a run asks by its contract."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from pytorch_lightning import LightningModule, Trainer
from torch import Tensor, nn

from distill import Compression
from distill.core.record import sparsity_step
from distill.core.step_callback import total_steps


class RandomPruning(Compression):
    """More and more weights, drawn by chance, are zero until ``end`` of the run: what any pruning has to beat."""

    order = 1  # of compressions that mask; 0 changes the structure, 2 quantizes

    def __init__(self, sparsity: float = 0.5, end: float = 0.5) -> None:
        self.sparsity, self.end, self.level = sparsity, end, 0.0

    def prepare(self, student: nn.Module) -> None:  # before weights are restored and the optimizer is made
        self.maps = {name: module for name, module in student.named_modules() if isinstance(module, nn.Linear)}
        draw = torch.Generator().manual_seed(0)
        for module in self.maps.values():
            module.register_buffer("chance", torch.rand(module.weight.shape, generator=draw), persistent=False)

    def on_step_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        (self.level,) = self.timeline([self._step], total_steps(pl_module))["random sparsity"]
        for weight, kept in self.factors():
            weight.data.mul_(kept)

    def timeline(self, steps: Iterable[int], total_steps: int) -> dict[str, list[float]]:
        return {"random sparsity": [self.sparsity * min(1.0, step / (self.end * total_steps)) for step in steps]}

    def target_reached(self, step: int, total_steps: int) -> bool:  # no checkpoint before that is the best
        return step >= self.end * total_steps

    def masked(self, student: nn.Module) -> list[str]:
        return [f"{name}.weight" for name in self.maps]

    def factors(self) -> Sequence[tuple[Tensor, Tensor]]:  # averages of the weights are masked too
        return [(module.weight, module.get_buffer("chance") >= self.level) for module in self.maps.values()]

    def finish(self, student: nn.Module) -> list[dict[str, Any]]:
        return [sparsity_step(student, self.maps)]
